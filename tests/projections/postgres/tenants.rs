//! Row-level security, tried as those that it binds.

use arqonbus::projections::projection::Projection as _;

use super::ready;
use crate::episodes::{Episodes, drive, place, trouble};

/// Whom a login role can read for, and what it asks for.
fn as_reader(asks: &str, statement: &str) -> String {
    format!("SET ROLE NONE; SET app.tenants = '{asks}'; {statement}")
}

// PRJ-10: a reader sees the tenants that it is bound to and asks for, and changes nothing.
#[tokio::test]
async fn a_reader_sees_its_tenants_alone() {
    let (server, database, sink) = ready().await;
    let episodes = Episodes::new();
    for tenant in ["acme", "globex", "initech"] {
        drive(
            &sink,
            &episodes,
            &place(tenant),
            &trouble(tenant, 40),
            |_| {},
        )
        .await;
    }
    let name = &database.name;
    let (reader, service, nobody) = (
        format!("{name}_reader"),
        format!("{name}_service"),
        format!("{name}_nobody"),
    );
    for role in [&reader, &service, &nobody] {
        server.sql(
            name,
            &format!("CREATE ROLE {role} LOGIN PASSWORD 'second' IN ROLE arqonbus_reader"),
        );
    }
    server.sql(
        name,
        &format!(
            "INSERT INTO arqonbus_reader_tenant VALUES \
             ('{reader}', 'acme'), ('{reader}', 'globex'), ('{service}', '*')"
        ),
    );
    let ask = |role: &str, asks: &str, statement: &str| {
        server.try_sql_as(name, role, "second", &as_reader(asks, statement))
    };
    for table in episodes.tables().iter().map(|table| table.name.as_str()) {
        let tenants =
            format!("SELECT string_agg(DISTINCT tenant_id, ',' ORDER BY tenant_id) FROM {table}");
        let table_is_empty = server.sql(name, &format!("SELECT count(*) = 0 FROM {table}")) == "t";
        for (role, asks, wanted) in [
            (&reader, "acme", "acme"),
            (&reader, "acme,globex", "acme,globex"),
            (&reader, "acme,initech", "acme"),
            (&reader, "initech", ""),
            (&reader, "*", ""),
            (&reader, "", ""),
            (&service, "initech", "initech"),
            (&service, "", ""),
            (&nobody, "acme", ""),
        ] {
            let wanted = if table_is_empty { "" } else { wanted };
            assert_eq!(
                ask(role, asks, &tenants).as_deref(),
                Ok(wanted),
                "{table}: {role} asks for {asks}"
            );
        }
        let unset = server.try_sql_as(name, &reader, "second", &tenants);
        assert_eq!(unset.as_deref(), Ok(""), "{table}");
        for change in [
            format!("DELETE FROM {table}"),
            format!("UPDATE {table} SET tenant_id = 'acme'"),
            format!("INSERT INTO {table} (tenant_id) VALUES ('acme')"),
            format!("TRUNCATE {table}"),
        ] {
            let refused = ask(&reader, "acme", &change).expect_err(&change);
            assert!(refused.contains("permission denied"), "{change}: {refused}");
        }
    }
    let bound = ask(
        &reader,
        "acme",
        "SELECT string_agg(tenant_id, ',' ORDER BY tenant_id) FROM arqonbus_reader_tenant",
    );
    assert_eq!(bound.as_deref(), Ok("acme,globex"), "its own tenants alone");
    let more = format!("INSERT INTO arqonbus_reader_tenant VALUES ('{reader}', '*')");
    ask(&reader, "acme", &more).expect_err("a reader binds itself to nothing");
    let position = ask(
        &reader,
        "acme,initech",
        "SELECT string_agg(tenant_id, ',') FROM arqonbus_projection_cursor",
    );
    assert_eq!(position.as_deref(), Ok("acme"));
}

// PRJ-10: the owner of the tables is bound too by the tenant that it names, and writes no other
// tenant's rows; where it names none, it sees what it owns.
#[tokio::test]
async fn the_owner_is_bound_too() {
    let (server, database, sink) = ready().await;
    let episodes = Episodes::new();
    drive(
        &sink,
        &episodes,
        &place("acme"),
        &trouble("acme", 40),
        |_| {},
    )
    .await;
    let ask =
        |statement: &str| server.try_sql_as(&database.name, &database.owner, "first", statement);
    let count = "SELECT count(*) > 0 FROM arqonbus_continuum_projection";
    for (named, sees) in [
        ("", "t"),
        ("SET app.tenants = ''; ", "t"),
        ("SET app.tenants = 'acme'; ", "t"),
        ("SET app.tenants = 'globex'; ", "f"),
    ] {
        let seen = ask(&format!("{named}{count}"));
        assert_eq!(seen.as_deref(), Ok(sees), "{named}");
    }
    let foreign = ask(
        "SET app.tenants = 'acme'; INSERT INTO arqonbus_continuum_projection_dlq \
         (tenant_id, dlq_id, reason, event) VALUES ('globex', 'x', 'x', '{}')",
    );
    let said = foreign.expect_err("another tenant's row");
    assert!(said.contains("row-level security"), "{said}");
}
