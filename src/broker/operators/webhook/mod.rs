//! `op.webhook`: events sent to URLs, at least once, in order, signed (OPS-05).
//!
//! - `command`: registers rules and shows what becomes of them.
//! - `rule`: the rules and their positions, a fold of the log.
//! - `work`: one `lane` for each rule that is enabled; a slow receiver delays nobody but itself.
//! - `window`, `retry`, `breaker`: what is sent next, and when. They know no clock and no socket.
//! - `target`, `address`, `post`: where it goes, and how. They know no rule and no event.
//! - `body`, `signature`: what is sent.
//! - [`desk`](Desk): what all webhooks of the node share.
//!
//! No publisher waits for any of this: lanes read the log as every consumer does.

mod address;
mod body;
mod breaker;
mod command;
mod desk;
mod lane;
mod post;
mod retry;
mod rule;
mod settings;
mod signature;
mod target;
mod window;
mod work;

pub use self::desk::{Desk, Totals};
pub use self::settings::{OlderView, Settings, Unusable};
pub(in crate::broker) use self::work::reality_deleted;

use super::{BuiltIn, Duty};
use crate::broker::error::Error;
use crate::proto::code::ErrorCode;

const NAME: &str = "webhook";

/// The operator.
pub(super) const OPERATOR: BuiltIn = BuiltIn {
    name: NAME,
    doc: "Sends events to URLs, at least once and in order, signed as Standard Webhooks.",
    commands: command::COMMANDS,
    duty: Some(Duty {
        is_due: work::is_due,
        run: work::run,
    }),
};

/// Why something about a webhook is not done.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// What it is called on the wire.
    pub(in crate::broker) code: ErrorCode,
    /// The part of the request at fault.
    pub(in crate::broker) field: String,
    text: String,
}

impl Refused {
    fn because(code: ErrorCode, field: &str, text: impl Into<String>) -> Error {
        Error::Webhook(Box::new(Self {
            code,
            field: field.to_owned(),
            text: text.into(),
        }))
    }

    /// An argument that cannot be taken as it is.
    fn invalid(argument: &str, text: impl std::fmt::Display) -> Error {
        let field = format!("arguments.{argument}");
        Self::because(
            ErrorCode::ValidationError,
            &field,
            format!("{argument}: {text}"),
        )
    }

    /// Something that is not as it would have to be.
    fn conflict(field: &str, text: impl Into<String>) -> Error {
        Self::because(ErrorCode::ValidationError, field, text)
    }
}
