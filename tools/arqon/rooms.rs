//! `arqon rooms`: rooms, channels, and who is in them.

use std::io::Write as _;

use arqonbus::client::{Client, Start, SubscribeOptions};
use clap::{Args, Subcommand};
use serde_json::Value as Json;

use crate::connection::{Patience, Target};
use crate::consume::{Acks, follow};
use crate::registered::Registered;
use crate::show::Printer;
use crate::{Output, table};

/// List, create and delete rooms, and see who is in them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon rooms list
  arqon rooms create lab --description 'where we measure'
  arqon rooms create lab exp-1
  arqon rooms members lab exp-1
  arqon rooms join lab exp-1 --follow
  arqon rooms delete lab")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the rooms that were created, have members or hold records
    #[command(after_help = "Example:\n  arqon rooms list --output json")]
    List,
    /// Show a room with its channels, or one of them
    #[command(after_help = "Example:\n  arqon rooms info lab exp-1")]
    Info {
        /// The room
        room: String,
        /// The channel
        channel: Option<String>,
    },
    /// Create a room, or a channel of it; what was deleted is open again
    #[command(after_help = "Example:\n  arqon rooms create lab exp-1 --description 'first run'")]
    Create {
        /// The room
        room: String,
        /// The channel
        channel: Option<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Close a room, or a channel of it, and put its members out; its records stay
    #[command(after_help = "Example:\n  arqon rooms delete lab exp-1")]
    Delete {
        /// The room
        room: String,
        /// The channel
        channel: Option<String>,
    },
    /// List who is in a channel now
    #[command(after_help = "Example:\n  arqon rooms members lab exp-1")]
    Members {
        /// The room
        room: String,
        /// The channel
        #[arg(default_value = "main")]
        channel: String,
    },
    /// Become a member of a channel and print who is there; with --follow, stay, and print what is
    /// said, or who comes and goes
    #[command(after_help = "\
Examples:
  arqon rooms join lab exp-1 --follow
  arqon rooms join lab exp-1 --follow --presence --limit 2")]
    Join {
        /// The room
        room: String,
        /// The channel
        #[arg(default_value = "main")]
        channel: String,
        /// Stay, and print what is said
        #[arg(long)]
        follow: bool,
        /// Print who comes and goes instead
        #[arg(long, requires = "follow")]
        presence: bool,
        /// Leave after so many records
        #[arg(long, value_name = "N", requires = "follow", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let (name, given) = match arguments.action {
        Action::List => ("room.list", Vec::new()),
        Action::Info { room, channel } => match channel {
            None => ("room.info", vec![("room", room)]),
            Some(channel) => ("channel.info", vec![("room", room), ("channel", channel)]),
        },
        Action::Create {
            room,
            channel,
            description,
        } => {
            let mut given = vec![("room", room)];
            given.extend(description.map(|text| ("description", text)));
            match channel {
                None => ("room.create", given),
                Some(channel) => {
                    given.push(("channel", channel));
                    ("channel.create", given)
                }
            }
        }
        Action::Delete { room, channel } => match channel {
            None => ("room.delete", vec![("room", room)]),
            Some(channel) => ("channel.delete", vec![("room", room), ("channel", channel)]),
        },
        Action::Members { room, channel } => {
            ("room.members", vec![("room", room), ("channel", channel)])
        }
        Action::Join {
            room,
            channel,
            follow,
            presence,
            limit,
        } => {
            let stay = follow.then_some(Stay { presence, limit });
            return join(client, output, room, channel, stay).await;
        }
    };
    let given = given.into_iter().map(|(name, text)| (name, text.into()));
    let answer = client.command(name, given).await?.to_json();
    match (output, name) {
        (Output::Text, "room.list") => table::print(&answer["rooms"], output),
        (Output::Text, "room.info") => table::print(&answer["channels"], output),
        (Output::Text, "room.members") => table::print(&answer["members"], output),
        _ => table::print(&answer, output),
    }
}

/// How a member stays.
struct Stay {
    presence: bool,
    limit: Option<u64>,
}

async fn join(
    client: Client,
    output: Output,
    room: String,
    channel: String,
    stay: Option<Stay>,
) -> anyhow::Result<()> {
    let given = [
        ("room", room.into()),
        ("channel", channel.into()),
        ("presence", false.into()),
    ];
    let joined = client.command("room.join", given).await?.to_json();
    let Some(stay) = stay else {
        return match output {
            Output::Text => table::print(&joined["members"], output),
            Output::Json => table::print(&joined, output),
        };
    };
    let topic = |name: &str| joined[name].as_str().unwrap_or_default().to_owned();
    let filter = topic(if stay.presence {
        "presence_topic"
    } else {
        "topic"
    });
    // From the join itself on, so that neither anybody nor anything is missed.
    let start = Start::Sequence(joined["sequence"].as_u64().unwrap_or(1));
    let options = SubscribeOptions {
        start,
        ..SubscribeOptions::new(filter)
    };
    let live = client.subscribe(options).await?;
    // For whoever waits until it hears: what is printed after this are records.
    let who = joined["members"].as_array().map_or(0, Vec::len);
    writeln!(std::io::stderr(), "{}", said(&joined, who))?;
    let registered = Registered::of(&client).await;
    let printer = Printer::new(output, live.subscribed(), registered);
    follow(client, live, printer, stay.limit, Acks::None).await
}

fn said(joined: &Json, members: usize) -> String {
    let word = |name: &str| table::printable(joined[name].as_str().unwrap_or_default());
    format!(
        "joined {}/{} as {}; {members} there",
        word("room"),
        word("channel"),
        word("member")
    )
}
