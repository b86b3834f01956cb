//! convert
#[derive(Debug)] pub struct Error; pub fn plan() {} pub fn process() {}
