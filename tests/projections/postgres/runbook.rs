//! The page of `docs/runbook.md` about the database, its commands run as they stand there.

use super::ready;
use crate::episodes::{Episodes, drive, expected, held, place, trouble};

/// The blocks of commands of the page.
fn commands() -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
    let document = std::fs::read_to_string(path).expect("the runbook");
    let (_, page) = document
        .split_once("<!-- scenario: postgres -->")
        .expect("a page about it");
    let page = page.split("\n## ").next().unwrap_or_default();
    let blocks = page.split("```sh\n").skip(1);
    blocks
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block.to_owned())
        .collect()
}

// PRJ-12: dumped, dropped, restored, the tables are what they were, and the projection goes on by
// itself to where it would be without.
#[tokio::test]
async fn a_database_is_restored_from_its_backup() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 400);
    drive(&sink, &episodes, &place, &entries[..200], |_| {}).await;
    let blocks = commands();
    // What follows is about a node: tests/node runs all of it.
    let [backup, restore, _] = &blocks[..] else {
        panic!("a block to back up, one to restore, one to look: {blocks:?}")
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let variables = [
        ("BACKUP", dir.path().to_str().expect("text")),
        ("DATABASE", &database.name),
        ("OWNER", &database.owner),
    ];
    server.script(backup, &variables);
    drive(&sink, &episodes, &place, &entries[..300], |_| {}).await;
    let ahead = sink_position(&sink).await;
    server.script(restore, &variables);

    // The first request finds the old connections cut.
    for _ in 0..9 {
        if sink_position(&sink).await.is_some() {
            break;
        }
    }
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries[..200])
    );
    assert!(sink_position(&sink).await < ahead);
    drive(&sink, &episodes, &place, &entries, |_| {}).await;
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
    assert!(
        sink.status()
            .await
            .expect("a status")
            .pending()
            .next()
            .is_none()
    );
}

async fn sink_position(sink: &arqonbus::projections::postgres::Postgres) -> Option<u64> {
    use arqonbus::projections::sink::Sink as _;
    let position = sink.position(&place("acme")).await.ok()??;
    Some(position.next.get())
}
