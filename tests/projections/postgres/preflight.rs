//! What is said of databases that are fit for production, and of those that are not.

use arqonbus::projections::postgres::preflight::Verdict;

use super::{ready, sink};
use crate::episodes::Episodes;

async fn verdict(url: &str, name: &str) -> (Option<Verdict>, String) {
    let findings = sink(url).preflight(&[&Episodes::new()]).await;
    let of_name = findings.iter().find(|finding| finding.name == name);
    (
        of_name.map(|finding| finding.verdict),
        format!("{findings:?}"),
    )
}

// PRJ-15: a database that has everything has no finding that is not good.
#[tokio::test]
async fn a_fit_database_is_good_throughout() {
    let (_, _, sink) = ready().await;
    let findings = sink.preflight(&[&Episodes::new()]).await;
    assert!(findings.len() >= 11, "{findings:?}");
    assert!(
        findings
            .iter()
            .all(|finding| finding.verdict == Verdict::Good),
        "{findings:?}"
    );
}

// PRJ-15: each thing that is missing is named.
#[tokio::test]
async fn what_is_missing_is_named() {
    let (server, database, _sink) = ready().await;
    let empty = server.database();
    let (found, all) = verdict(&empty.url, "migrated").await;
    assert_eq!(found, Some(Verdict::Failed), "{all}");

    let away = database.url.replace(&server.port.to_string(), "1");
    let (found, all) = verdict(&away, "reachable").await;
    assert_eq!(found, Some(Verdict::Failed), "{all}");
    let (found, all) = verdict(&database.url.replace(":first@", ":wrong@"), "reachable").await;
    assert_eq!(found, Some(Verdict::Failed), "{all}");
    assert!(all.contains("28P01") && !all.contains("wrong"), "{all}");

    let name = &database.name;
    let guest = format!("{name}_guest");
    server.sql(
        name,
        &format!(
            "CREATE ROLE {guest} LOGIN PASSWORD 'third'; \
             GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {guest}; DROP TABLE of_all_kinds"
        ),
    );
    let url = server.url(&guest, "third", name);
    let (found, all) = verdict(&url, "table arqonbus_continuum_projection").await;
    assert_eq!(found, Some(Verdict::Failed), "{all}");
    assert!(all.contains("may not UPDATE, DELETE"), "{all}");
    let (found, all) = verdict(&url, "table of_all_kinds").await;
    assert_eq!(found, Some(Verdict::Failed), "{all}");
    assert!(all.contains("GRANT CREATE"), "{all}");

    server.sql(
        name,
        &format!("ALTER ROLE {guest} SET default_transaction_read_only = on"),
    );
    let (found, all) = verdict(&url, "writable").await;
    assert_eq!(found, Some(Verdict::Failed), "{all}");
    let superuser = server.url("postgres", "fourth", name);
    server.sql(name, "ALTER ROLE postgres PASSWORD 'fourth'");
    let (found, all) = verdict(&superuser, "row security").await;
    assert_eq!(found, Some(Verdict::Warning), "{all}");
}
