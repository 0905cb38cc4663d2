//! What a command is, whoever carries it out: name, role, typed arguments, and the checks that
//! come before it is done (BRK-11).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Map;

use super::access::{Identity, Role};
use super::error::{ArgumentFault, Error};
use crate::proto::v1::{Value, value};

/// A command, as listed, with what carries it out.
#[derive(Clone, Copy, Debug)]
pub struct Command<H> {
    /// Its name.
    pub name: &'static str,
    /// Who may give it.
    pub role: Role,
    /// What it leaves behind.
    pub effect: Effect,
    /// What it takes.
    pub arguments: &'static [Argument],
    /// What it does, in a sentence.
    pub doc: &'static str,
    /// What carries it out. May block on the disk.
    pub handler: H,
}

/// What a command leaves behind, and with it what of it is audited (BRK-13). Whatever changes
/// something is carried out only when who asked for what is on disk, and what became of it is
/// written down after; of all others, that the caller had no right to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It shows something; all is as it was.
    Shows,
    /// It appends what is the caller's own, as publishing does: the record says by whom and when.
    Writes,
    /// It changes something, here or elsewhere: what is in force, what others have, what runs.
    Changes,
}

impl Effect {
    /// As listed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shows => "shows",
            Self::Writes => "writes",
            Self::Changes => "changes",
        }
    }
}

/// An argument of a command.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Whether the command is refused without it.
    pub required: bool,
    /// What it means.
    pub doc: &'static str,
}

impl Argument {
    /// One that the command is refused without.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            required: true,
            doc,
        }
    }

    /// One that may be left out.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            required: false,
            ..Self::required(name, kind, doc)
        }
    }
}

/// Type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// Bytes; in JSON, base64.
    Bytes,
    /// A whole number from 0 on.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A list of texts.
    Texts,
    /// An object with whatever is in it, or the text of one.
    Object,
    /// Whatever a value can be.
    Any,
}

impl Kind {
    /// What must be given, for an error's text.
    #[must_use]
    pub const fn wanted(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Bytes => "bytes",
            Self::Integer => "a whole number from 0 on",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Texts => "a list of texts",
            Self::Object => "an object, or a text that is one in JSON",
            Self::Any => "a value",
        }
    }

    /// The value, if it is of this type.
    fn of(self, given: &value::Kind) -> Option<Given> {
        match (self, given) {
            (Self::Text, value::Kind::Text(text)) => Some(Given::Text(text.clone())),
            (Self::Bytes, value::Kind::Bytes(bytes)) => Some(Given::Bytes(bytes.clone())),
            (Self::Integer, value::Kind::Unsigned(number)) => Some(Given::Integer(*number)),
            (Self::Integer, value::Kind::Integer(number)) => {
                u64::try_from(*number).ok().map(Given::Integer)
            }
            (Self::Number, value::Kind::Number(number)) => Some(Given::Number(*number)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "whoever wants it exact asks for one"
            )]
            (Self::Number, value::Kind::Unsigned(number)) => Some(Given::Number(*number as f64)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "whoever wants it exact asks for one"
            )]
            (Self::Number, value::Kind::Integer(number)) => Some(Given::Number(*number as f64)),
            (Self::Any, any) => Some(Given::Any(any.clone().into())),
            (Self::Boolean, value::Kind::Boolean(flag)) => Some(Given::Boolean(*flag)),
            (Self::Texts, value::Kind::List(list)) => {
                let text = |item: &Value| match &item.kind {
                    Some(value::Kind::Text(text)) => Some(text.clone()),
                    _ => None,
                };
                let texts: Option<Vec<String>> = list.items.iter().map(text).collect();
                texts.map(Given::Texts)
            }
            (Self::Object, value::Kind::Fields(_)) => {
                let whole = Value::from(given.clone()).to_json();
                object(whole).map(Given::Object)
            }
            (Self::Object, value::Kind::Text(text)) => {
                object(serde_json::from_str(text).ok()?).map(Given::Object)
            }
            _ => None,
        }
    }
}

fn object(json: serde_json::Value) -> Option<Map<String, serde_json::Value>> {
    match json {
        serde_json::Value::Object(fields) => Some(fields),
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Given {
    Text(String),
    Bytes(Bytes),
    Integer(u64),
    Boolean(bool),
    Texts(Vec<String>),
    Object(Map<String, serde_json::Value>),
    Number(f64),
    Any(Value),
}

/// Arguments that fit their command.
#[derive(Clone, Debug, Default)]
pub struct Arguments(BTreeMap<&'static str, Given>);

impl Arguments {
    /// A text, if it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Given::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Bytes, if they were given.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&Bytes> {
        match self.0.get(name)? {
            Given::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A number, if it was given.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Given::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// Any number, if it was given.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.0.get(name)? {
            Given::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Any value, if it was given.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        match self.0.get(name)? {
            Given::Any(value) => Some(value),
            _ => None,
        }
    }

    /// A truth value, if it was given.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Given::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A list, if it was given.
    #[must_use]
    pub fn texts(&self, name: &str) -> Option<&[String]> {
        match self.0.get(name)? {
            Given::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// An object, if it was given.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<&Map<String, serde_json::Value>> {
        match self.0.get(name)? {
            Given::Object(fields) => Some(fields),
            _ => None,
        }
    }
}

impl<H> Command<H> {
    /// Lets `caller` give the command with `given`.
    ///
    /// # Errors
    /// The caller may not; an argument is missing, unknown or of the wrong type.
    pub fn admit(
        &self,
        caller: &Identity,
        given: &BTreeMap<String, Value>,
    ) -> Result<Arguments, Error> {
        if !caller.role.includes(self.role) {
            return Err(Error::RoleMissing {
                command: self.name,
                needed: self.role.as_str(),
            });
        }
        let fail = |argument: &str, fault| Error::Argument {
            command: self.name,
            argument: argument.chars().take(64).collect(),
            fault,
        };
        let known = |name: &String| self.arguments.iter().any(|one| one.name == name.as_str());
        if let Some(name) = given.keys().find(|name| !known(name)) {
            let names: Vec<_> = self.arguments.iter().map(|one| one.name).collect();
            let known = names.join(", ");
            return Err(fail(name, ArgumentFault::Unknown { known }));
        }
        let mut admitted = BTreeMap::new();
        for argument in self.arguments {
            match given.get(argument.name) {
                Some(value) => {
                    let fits = value.kind.as_ref().and_then(|kind| argument.kind.of(kind));
                    let wanted = argument.kind.wanted();
                    let fits =
                        fits.ok_or_else(|| fail(argument.name, ArgumentFault::Kind { wanted }))?;
                    admitted.insert(argument.name, fits);
                }
                None if argument.required => {
                    return Err(fail(argument.name, ArgumentFault::Missing));
                }
                None => {}
            }
        }
        Ok(Arguments(admitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-11
    #[test]
    fn an_object_is_taken_as_it_is_or_as_the_text_of_one() {
        let fields =
            serde_json::json!({"a": {"b": [1, null, "x"]}, "n": 18_446_744_073_709_551_615_u64});
        let whole = Value::from(fields.clone());
        for given in [whole, fields.to_string().into()] {
            let given = Kind::Object.of(given.kind.as_ref().unwrap());
            assert_eq!(given, object(fields.clone()).map(Given::Object));
        }
        for wrong in ["", "[1]", "{", "null"] {
            let wrong = value::Kind::Text(wrong.to_owned());
            assert_eq!(Kind::Object.of(&wrong), None, "{wrong:?}");
        }
        assert_eq!(Kind::Object.of(&value::Kind::Boolean(true)), None);
    }
}
