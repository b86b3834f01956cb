/// A process, told apart from later ones that reuse its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessRecord { pub pid: i32, pub start_time: u64 }
/// State file.
#[derive(Debug, Clone)]
pub struct Record;
