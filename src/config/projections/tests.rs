//! What declarations of projections may be, and what is said when one is wrong.

use proptest::prelude::*;

use super::{ColumnEntry, ColumnType, ProjectionEntry, pattern_fault, problems};
use crate::config::{Config, Loaded, layers, listing};

fn loaded(own: &str) -> Result<Loaded, String> {
    let variables = [("ARQONBUS_PROJECTIONS_OWN".to_owned(), own.to_owned())];
    layers::load(None, variables, &[]).map_err(|error| error.to_string())
}

fn entry(rest: &str) -> String {
    format!(r#"[{{name="q",topics=["q.>"],{rest}}}]"#)
}

const ID: &str = r#"{name="id",type="text",required=true}"#;

// PRJ-14
#[test]
fn a_projection_is_declared_by_its_topics_key_and_columns() {
    let own = entry(&format!(
        r#"key=["id"],columns=[{ID},{{name="at",type="timestamp_ms"}}]"#
    ));
    let loaded = loaded(&own).unwrap();
    let entry = &loaded.config.projections.own[0];
    assert_eq!(entry.table(), "q");
    assert_eq!(entry.reality, "main");
    assert_eq!(entry.dead_letter_topic(), "dlq.projection.q");
    assert_eq!(entry.columns[1].source(), "at");
}

// PRJ-14: what is wrong is said by entry and field, and all at once.
#[test]
fn what_is_wrong_with_a_projection_is_said_by_entry_and_field() {
    for (rest, wanted) in [
        (
            format!(r#"key=["id"],columns=[{ID},{{name="x",type="uuid"}}]"#),
            "projections.own[0].columns[1].type",
        ),
        (
            format!(r#"key=["id"],columns=[{ID},{{name="X",type="text"}}]"#),
            "projections.own[0].columns[1].name = X",
        ),
        (
            format!(r#"key=["id"],columns=[{ID},{{name="deleted",type="boolean"}}]"#),
            "projections.own[0].columns[1].name = deleted",
        ),
        (
            format!(r#"key=["id"],columns=[{ID},{ID}]"#),
            "projections.own[0].columns[1].name = id",
        ),
        (
            format!(r#"key=["id"],columns=[{ID},{{name="x",from="a..b",type="text"}}]"#),
            "projections.own[0].columns[1].from = a..b",
        ),
        (
            format!(r#"key=["id"],columns=[{ID},{{name="x",from="$body",type="text"}}]"#),
            "projections.own[0].columns[1].from = $body",
        ),
        (
            format!(r#"key=["id"],columns=[{ID},{{name="x",from="$sequence",type="text"}}]"#),
            "projections.own[0].columns[1].type",
        ),
        (
            format!(r#"key=["other"],columns=[{ID}]"#),
            "projections.own[0].key[0] = other",
        ),
        (
            format!(r#"key=["x"],columns=[{ID},{{name="x",type="text"}}]"#),
            "projections.own[0].key[0] = x",
        ),
        (
            r#"key=["x"],columns=[{name="x",type="json",required=true}]"#.to_owned(),
            "projections.own[0].key[0] = x",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],order_by="when""#),
            "projections.own[0].order_by = when",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],table="arqonbus_x""#),
            "projections.own[0].table = arqonbus_x",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],dead_letters="x.y""#),
            "projections.own[0].dead_letters = x.y",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],reality="A""#),
            "projections.own[0].reality = A",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],sinks=["postgres"]"#),
            "needs postgres.url",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],sinks=["valkey"]"#),
            "projections.own[0].sinks[0]",
        ),
        (
            format!(r#"key=["id"],columns=[{ID}],colour="red""#),
            "colour",
        ),
        (
            format!(
                r#"key=["id"],columns=[{ID}]}},{{name="q",topics=["b.>.c"],table="q_dlq",key=["id"],columns=[{ID}]"#
            ),
            "projections.own[1].name = q",
        ),
    ] {
        let error = loaded(&entry(&rest)).expect_err(&rest);
        assert!(error.contains(wanted), "{wanted:?} is missing in {error}");
        assert!(error.contains("ARQONBUS_PROJECTIONS_OWN"), "{error}");
    }
}

#[test]
fn all_of_two_bad_entries_is_said_at_once() {
    let own = entry(&format!(
        r#"key=["id"],columns=[{ID}]}},{{name="q",topics=["b.>.c"],table="q_dlq",key=["id"],columns=[{ID}]"#
    ));
    let error = loaded(&own).unwrap_err();
    for wanted in [
        "projections.own[1].name",
        "projections.own[1].topics[0] = b.>.c",
        "projections.own[1].table = q_dlq",
        "projections.own[1].dead_letters",
    ] {
        assert!(error.contains(wanted), "{wanted:?} is missing in {error}");
    }
}

#[test]
fn dead_letters_are_left_to_their_own_projection() {
    let own = format!(r#"[{{name="q",topics=["dlq.>"],key=["id"],columns=[{ID}]}}]"#);
    let error = loaded(&own).unwrap_err();
    assert!(
        error.contains("projections.own[0].topics[0] = dlq.>"),
        "{error}"
    );
}

// PRJ-14, PRJ-19: what the documentation shows can be used as it is.
#[test]
fn the_declarations_of_the_documentation_are_taken() {
    let text = std::fs::read_to_string("docs/projections.md").expect("docs/projections.md");
    let mut section = text.split("\n## ");
    let section = section.find(|part| part.starts_with("Your own projection"));
    let blocks: Vec<&str> = section
        .expect("a section of one's own projection")
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("arqonbus.toml");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's file need not survive a power cut"
    )]
    std::fs::write(&path, blocks.concat()).unwrap();
    let url = ("ARQONBUS_POSTGRES_URL", "postgres://localhost/bus");
    let variables = [(url.0.to_owned(), url.1.to_owned())];
    let loaded = layers::load(Some(&path), variables, &[]).unwrap();
    let projections = &loaded.config.projections;
    assert_eq!(projections.own[0].columns.len(), 7);
    assert_eq!(projections.messages[0].topics, ["room.>"]);
}

// PRJ-19
#[test]
fn messages_go_to_the_table_of_the_older_system() {
    let of = |text: &str| {
        let variables = [("ARQONBUS_PROJECTIONS_MESSAGES".to_owned(), text.to_owned())];
        layers::load(None, variables, &[]).map_err(|error| error.to_string())
    };
    let loaded = of(r#"[{topics=["room.>"]}]"#).unwrap();
    let entry = &loaded.config.projections.messages[0];
    assert_eq!(entry.table, "arqonbus_message_history");
    assert_eq!(entry.dead_letter_topic(), "dlq.projection.messages");
    let error = of(r#"[{topics=["a.>"]},{name="more",topics=["b.>"]}]"#).unwrap_err();
    let wanted = "projections.messages[1].table = arqonbus_message_history";
    assert!(error.contains(wanted), "{error}");
    let error = of(r#"[{topics=["a.>"],sinks=["valkey"]}]"#).unwrap_err();
    assert!(error.contains("needs valkey.url"), "{error}");
}

// PRJ-15: URLs hold passwords, and are shown nowhere.
#[test]
fn urls_of_sinks_come_from_the_environment_and_are_never_shown() {
    let variables = |postgres: &str| {
        [
            ("ARQONBUS_POSTGRES_URL".to_owned(), postgres.to_owned()),
            (
                "ARQONBUS_VALKEY_URL".to_owned(),
                "valkeys://:swordfish@v:6379".to_owned(),
            ),
        ]
    };
    let url = "postgres://bus:swordfish@db:5432/bus?sslmode=require";
    let loaded = layers::load(None, variables(url), &[]).unwrap();
    let given = loaded.config.postgres.url.as_ref().unwrap();
    assert_eq!(given.reveal(), url);
    for shown in [
        format!("{loaded:?}"),
        listing::table(&loaded).unwrap(),
        listing::json(&loaded).unwrap().to_string(),
    ] {
        assert!(shown.contains("(hidden)"), "{shown}");
        assert!(!shown.contains("swordfish"), "{shown}");
    }
    for wrong in ["mysql://bus:swordfish@db/bus", "swordfish", "postgres://"] {
        let error = layers::load(None, variables(wrong), &[]).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(shown.contains("postgres.url"), "{shown}");
            assert!(!shown.contains("swordfish"), "{shown}");
        }
    }
}

#[test]
fn settings_of_sinks_have_bounds() {
    for (name, value) in [
        ("POSTGRES_POOL_MAX", "0"),
        ("POSTGRES_LOCK_TIMEOUT_MS", "9"),
        ("VALKEY_TTL_S", "0"),
        ("PROJECTIONS_BATCH_RECORDS_MAX", "0"),
        ("PROJECTIONS_CONCURRENCY", "1000"),
        ("PROJECTIONS_PRODUCTION", "none"),
    ] {
        let variables = [(format!("ARQONBUS_{name}"), value.to_owned())];
        let error = layers::load(None, variables, &[]).unwrap_err().to_string();
        assert!(error.contains("must be"), "{error}");
    }
}

#[test]
fn patterns_have_the_form_of_filters() {
    for good in [
        "a",
        "a.b",
        "*",
        ">",
        "a.*.c",
        "a.>",
        "sys.audit.>",
        "A~2E:b",
    ] {
        assert_eq!(pattern_fault(good), None, "{good}");
    }
    for bad in [
        "",
        ".",
        "a.",
        "a b",
        "a*",
        "a.>.b",
        "a>",
        "ä",
        &"a.".repeat(40),
    ] {
        assert!(pattern_fault(bad).is_some(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_declaration_panics(name in ".{0,8}", from in ".{0,8}", topic in ".{0,8}", key in ".{0,4}") {
        let column = ColumnEntry {
            name: name.clone(),
            from: Some(from),
            kind: ColumnType::Text,
            required: true,
        };
        let entry = ProjectionEntry {
            name: name.clone(),
            topics: vec![topic],
            reality: key.clone(),
            table: None,
            key: vec![key.clone(), name],
            columns: vec![column.clone(), column],
            order_by: Some(key),
            dead_letters: None,
            sinks: Vec::new(),
        };
        let mut config = Config::default();
        config.projections.own = vec![entry];
        // The column is there twice, whatever its name is.
        prop_assert!(!problems(&config, &[]).is_empty());
    }
}
