//! The AWS query protocol: a form names the operation, the answer is XML (STS, and the services that
//! keep to it).

use std::collections::BTreeMap;

use crate::aws_json::ApiError;
use crate::percent;

/// Content type of requests.
pub const FORM_TYPE: &str = "application/x-www-form-urlencoded";
/// Content type of answers.
pub const CONTENT_TYPE: &str = "text/xml";
/// `Version` of STS.
pub const STS_VERSION: &str = "2011-06-15";
/// XML namespace of STS's answers.
pub const STS_NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// More parameters are refused.
const MOST_PARAMETERS: usize = 1000;

/// A request: its parameters by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form(BTreeMap<String, String>);

impl Form {
    /// Reads a form.
    ///
    /// # Errors
    /// `MalformedQueryString` for a body that is none, or names a parameter twice.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let malformed = |message: &str| ApiError::client("MalformedQueryString", message);
        let text = std::str::from_utf8(body)
            .map_err(|error| malformed(&format!("the form is not UTF-8: {error}")))?;
        let mut parameters = BTreeMap::new();
        for (name, value) in percent::decode_query(text.trim_end()) {
            if parameters.len() == MOST_PARAMETERS {
                return Err(malformed("the form has too many parameters"));
            }
            if parameters.insert(name, value).is_some() {
                return Err(malformed("a parameter is given twice"));
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The operation.
    ///
    /// # Errors
    /// `MissingAction` without one.
    pub fn action(&self) -> Result<&str, ApiError> {
        self.get("Action")
            .filter(|action| !action.is_empty())
            .ok_or_else(|| ApiError::client("MissingAction", "The request must name an Action."))
    }

    /// The version of the API.
    pub fn version(&self) -> Option<&str> {
        self.get("Version")
    }

    /// A list: `name.member.1`, `name.member.2`, … up to the first that is missing.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        (1..=MOST_PARAMETERS).map_while(move |index| self.get(&format!("{name}.member.{index}")))
    }
}

/// Elements of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element<'a> {
    Text(&'a str, &'a str),
    Group(&'a str, Vec<Element<'a>>),
}

/// The answer to an operation: `<ActionResponse><ActionResult>…`.
pub fn answer(action: &str, namespace: &str, result: &[Element<'_>], request_id: &str) -> Vec<u8> {
    let mut xml = format!("<{action}Response xmlns=\"{namespace}\"><{action}Result>");
    for element in result {
        write(&mut xml, element);
    }
    xml.push_str(&format!("</{action}Result><ResponseMetadata>"));
    write(&mut xml, &Element::Text("RequestId", request_id));
    xml.push_str(&format!("</ResponseMetadata></{action}Response>\n"));
    xml.into_bytes()
}

/// An error.
pub fn error(error: &ApiError, namespace: &str, request_id: &str) -> Vec<u8> {
    let kind = if error.status < 500 { "Sender" } else { "Receiver" };
    let mut xml = format!("<ErrorResponse xmlns=\"{namespace}\">");
    let members = vec![
        Element::Text("Type", kind),
        Element::Text("Code", &error.name),
        Element::Text("Message", &error.message),
    ];
    write(&mut xml, &Element::Group("Error", members));
    write(&mut xml, &Element::Text("RequestId", request_id));
    xml.push_str("</ErrorResponse>\n");
    xml.into_bytes()
}

fn write(xml: &mut String, element: &Element<'_>) {
    let (Element::Text(name, _) | Element::Group(name, _)) = element;
    xml.push_str(&format!("<{name}>"));
    match element {
        Element::Text(_, text) => escape(xml, text),
        Element::Group(_, members) => members.iter().for_each(|member| write(xml, member)),
    }
    xml.push_str(&format!("</{name}>"));
}

/// Characters that XML 1.0 cannot hold are replaced by U+FFFD.
fn escape(xml: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\t' | '\n' => xml.push(character),
            // A reader of XML makes a new line of a bare one.
            '\r' => xml.push_str("&#13;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => xml.push('\u{fffd}'),
            _ => xml.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_form() {
        let form = Form::read(
            b"Action=Do&Version=2011-06-15&A.member.1=x&A.member.2=y+z&A.member.4=no&B=%26\n",
        )
        .unwrap();
        assert_eq!(form.action().unwrap(), "Do");
        assert_eq!(form.version(), Some(STS_VERSION));
        assert_eq!(form.list("A").collect::<Vec<_>>(), ["x", "y z"]);
        assert_eq!(form.get("B"), Some("&"));
        assert_eq!(form.list("B").count(), 0);
    }

    #[test]
    fn what_is_no_form() {
        let many: String = (0..=MOST_PARAMETERS).map(|index| format!("p{index}=1&")).collect();
        for body in [&b"\xff"[..], b"a=1&a=2", many.as_bytes()] {
            assert_eq!(Form::read(body).unwrap_err().name, "MalformedQueryString");
        }
        for body in [&b""[..], b"Action=", b"Version=1"] {
            assert_eq!(Form::read(body).unwrap().action().unwrap_err().name, "MissingAction");
        }
    }

    #[test]
    fn answers() {
        let arn = Element::Text("Arn", "a<b>&\"\u{1}\r");
        let group = Element::Group("G", vec![Element::Text("member", "1")]);
        let xml = answer("Who", "urn:x", &[arn, group], "id");
        assert_eq!(
            String::from_utf8(xml).unwrap(),
            "<WhoResponse xmlns=\"urn:x\"><WhoResult><Arn>a&lt;b&gt;&amp;&quot;\u{fffd}&#13;</Arn>\
             <G><member>1</member></G></WhoResult><ResponseMetadata><RequestId>id</RequestId>\
             </ResponseMetadata></WhoResponse>\n"
        );
        let refused = ApiError { status: 403, ..ApiError::client("ExpiredToken", "too late") };
        assert_eq!(
            String::from_utf8(error(&refused, "urn:x", "id")).unwrap(),
            "<ErrorResponse xmlns=\"urn:x\"><Error><Type>Sender</Type><Code>ExpiredToken</Code>\
             <Message>too late</Message></Error><RequestId>id</RequestId></ErrorResponse>\n"
        );
    }
}
