//! Every command of the registry, for every role, on every way that leads to it (BRK-11).
//!
//! Nothing is carried out here: each command is given an argument that it does not have, which is
//! looked at only once it is clear that the caller may give the command at all.

use arqonbus::broker::Role as Needed;
use arqonbus::broker::verb::{Argument, Kind};
use arqonbus::edge::ops::routes;
use arqonbus::edge::shield::command::{self, Listed};
use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::value;
use serde_json::{Value, json};

use crate::admin::command as over_http;
use crate::adversarial::requests::{ask, command as frame};
use crate::json_adapter::{self, Client};
use crate::raw::Request;
use crate::support::{Node, claims, signed};
use crate::wire::Wire;

const ROLES: [Role; 4] = [Role::User, Role::Controller, Role::Operator, Role::Admin];
const STRANGE: &str = "no_such_argument";

/// As the registry has it: written once more here, so that a change of the rule is seen.
fn may(role: Role, command: &Listed) -> bool {
    match command.role {
        Needed::User => true,
        Needed::Controller => matches!(role, Role::Controller | Role::Admin),
        Needed::Operator => matches!(role, Role::Operator | Role::Admin),
        Needed::Admin => role == Role::Admin,
    }
}

// BRK-11
#[test]
fn every_command_is_for_exactly_the_roles_that_it_names() {
    // The rates of refused requests are another test's.
    let node = Node::dev();
    let all = command::all();
    assert!(all.len() > 80, "{}", all.len());
    for role in ROLES {
        let who = claims("dev", role);
        let token = signed(&who, &node.dev_secret());
        let mut session = Wire::of(&node, &who);
        let mut client = Client::with(&node, &token);
        for one in &all {
            let expected = if may(role, one) {
                "VALIDATION_ERROR"
            } else {
                "FORBIDDEN"
            };
            let told = format!("{role:?} {}", one.name);
            let strange = [(STRANGE, value::Kind::Boolean(true))];
            let framed = ask(&mut session, frame(one.name, &strange));
            assert!(framed.starts_with(expected), "frames: {told}: {framed}");
            let answer = client.ask(&json_adapter::command(one.name, &json!({ STRANGE: true })));
            // In JSON all of its arguments are what is to be verified.
            let takes_anything = one.name == "truth.verify";
            assert!(
                takes_anything || answer.to_string().contains(expected),
                "JSON: {told}: {answer}"
            );
            let body = json!({ STRANGE: true }).to_string();
            let posted = over_http(one.name, &body).bearer(&token).send(node.ops);
            assert_eq!(posted.json()["error"]["code"], expected, "HTTP: {told}");
        }
        for (view, one) in routes::views() {
            let path = view.path.replace(['{', '}'], "");
            let shown = Request::get(&format!("{path}?{STRANGE}=1"));
            let shown = shown.bearer(&token).send(node.ops);
            // The arguments of a GET are looked at first: they are part of its address.
            assert_ne!(shown.status, 200, "{role:?} {}", one.name);
        }
    }
}

// BRK-11: nobody without a token, in production, on any way.
#[test]
fn nobody_without_a_token_gives_a_command() {
    let node = crate::admin::production();
    for one in command::all() {
        let posted = over_http(one.name, "{}").send(node.ops);
        assert_eq!(posted.status, 401, "{}", one.name);
    }
    for (view, _) in routes::views() {
        let shown = Request::get(view.path).send(node.ops);
        assert_eq!(shown.status, 401, "{}", view.path);
    }
    for subprotocol in ["arqon.v1", "arqon.json.v1", "arqon.envelope.v1"] {
        let request = Request::upgrade().with("Sec-WebSocket-Protocol", subprotocol);
        // In production JSON is off, which is told before anybody is asked who they are.
        let status = request.send(node.edge).status;
        assert!(matches!(status, 400 | 401), "{subprotocol}: {status}");
    }
}

/// A value of an argument's type, and one of another, if there is any.
fn values(argument: &Argument) -> (value::Kind, Option<value::Kind>) {
    let list = |items| value::Kind::List(value::List { items });
    let (text, number) = (value::Kind::Text("x".into()), value::Kind::Unsigned(1));
    match argument.kind {
        Kind::Text => (text, Some(number)),
        Kind::Bytes => (value::Kind::Bytes(b"x".as_slice().into()), Some(number)),
        Kind::Integer => (number, Some(value::Kind::Integer(-1))),
        Kind::Number => (number, Some(text)),
        Kind::Boolean => (value::Kind::Boolean(true), Some(text)),
        Kind::Texts => (list(vec!["x".into()]), Some(list(vec![1_u64.into()]))),
        Kind::Object => {
            let broken = value::Kind::Text("[".into());
            (value::Kind::Text("{}".into()), Some(broken))
        }
        Kind::Any => (text, None),
    }
}

// BRK-11: of every command every argument that is missing, of the wrong type or too much is named.
#[test]
fn what_is_wrong_with_an_argument_is_named() {
    let node = Node::dev();
    let mut session = Wire::of(&node, &claims("dev", Role::Admin));
    for one in command::all() {
        let right: Vec<(&str, value::Kind)> = one
            .arguments
            .iter()
            .map(|argument| (argument.name, values(argument).0))
            .collect();
        let mut refused = |given: &[(&str, value::Kind)], name: &str| {
            let answer = ask(&mut session, frame(one.name, given));
            let expected = format!("VALIDATION_ERROR arguments.{name}");
            assert_eq!(answer, expected, "{} {given:?}", one.name);
        };
        for argument in one.arguments {
            let but = |kind: Option<value::Kind>| {
                let others = right.iter().filter(|(name, _)| *name != argument.name);
                let others = others.cloned();
                others
                    .chain(kind.map(|kind| (argument.name, kind)))
                    .collect::<Vec<_>>()
            };
            if let Some(wrong) = values(argument).1 {
                refused(&but(Some(wrong)), argument.name);
            }
            if argument.required {
                refused(&but(None), argument.name);
            }
        }
        let more = [&right[..], &[(STRANGE, value::Kind::Boolean(true))]].concat();
        refused(&more, STRANGE);
    }
    let unknown = ask(&mut session, frame("reality.createe", &[]));
    assert_eq!(unknown, "UNKNOWN_COMMAND name");
    let (mut client, _) = Client::json(&node);
    let answer: Value = client.ask(&json_adapter::command("reality.createe", &json!({})));
    assert!(answer.to_string().contains("UNKNOWN_COMMAND"), "{answer}");
    let posted = over_http("reality.createe", "{}").send(node.ops);
    assert_eq!(posted.json()["error"]["code"], "UNKNOWN_COMMAND");
}
