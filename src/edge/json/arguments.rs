//! Arguments of a command in JSON as the typed values that commands take.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json};

use crate::broker::verb::{Argument, Kind};
use crate::proto::v1::{Value, value};

/// Converts `args` by what the command declares. What does not fit stays as it is, so that the
/// command refuses it by its name; null means absent.
#[must_use]
pub fn typed(args: Map<String, Json>, declared: &[Argument]) -> BTreeMap<String, Value> {
    let given = args.into_iter().filter(|(_, json)| !json.is_null());
    let typed = given.map(|(name, json)| {
        let declared = declared.iter().find(|argument| argument.name == name);
        let value = match (declared.map(|argument| argument.kind), json) {
            // Protobuf clients send numbers of some commands as texts.
            (Some(Kind::Text), Json::Number(number)) => text(number.to_string()),
            (Some(Kind::Bytes), Json::String(encoded)) => match BASE64.decode(&encoded) {
                Ok(bytes) => value::Kind::Bytes(bytes.into()).into(),
                Err(_not_base64) => text(encoded),
            },
            (_, json) => json.into(),
        };
        (name, value)
    });
    typed.collect()
}

fn text(text: String) -> Value {
    value::Kind::Text(text).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_get_the_types_that_are_declared() {
        let argument = |name, kind| Argument {
            name,
            kind,
            required: false,
            doc: "",
        };
        let declared = [
            argument("text", Kind::Text),
            argument("bytes", Kind::Bytes),
            argument("n", Kind::Integer),
        ];
        let Json::Object(args) = json!({
            "text": 5, "bytes": "AAE=", "n": u64::MAX, "list": ["a"], "minus": -1,
            "flag": true, "absent": null, "float": 0.5, "o": {"x": 1},
        }) else {
            unreachable!()
        };
        let typed = typed(args, &declared);
        let kind = |name: &str| typed[name].kind.clone().unwrap();
        assert_eq!(kind("text"), value::Kind::Text("5".into()));
        assert_eq!(kind("bytes"), value::Kind::Bytes(vec![0, 1].into()));
        assert_eq!(kind("n"), value::Kind::Unsigned(u64::MAX));
        assert_eq!(kind("minus"), value::Kind::Integer(-1));
        assert_eq!(kind("flag"), value::Kind::Boolean(true));
        assert!(!typed.contains_key("absent"));
        assert_eq!(typed["list"].to_json(), json!(["a"]));
        assert_eq!(typed["float"].to_json(), json!(0.5));
        assert_eq!(typed["o"].to_json(), json!({"x": 1}));
    }
}
