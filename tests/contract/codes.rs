//! The list of error codes in `docs/protocol.md` is the list in the code.

use arqonbus::proto::ErrorCode;

#[test]
fn the_documented_error_codes_are_those_of_the_code() {
    let document = include_str!("../../docs/protocol.md");
    let row = |code: ErrorCode| {
        let retry = if code.retryable() { "yes" } else { "no" };
        format!(
            "| `{code}` | {} | {} | {retry} |",
            code.http_status(),
            code.close_code()
        )
    };
    for code in ErrorCode::ALL {
        let wanted = row(code);
        assert!(
            document.lines().any(|line| line.starts_with(&wanted)),
            "docs/protocol.md lacks\n{wanted} .."
        );
    }
    let documented = document.lines().filter(|line| {
        let name = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split('`').next())
            .unwrap_or_default();
        name.len() > 3 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    });
    assert_eq!(
        documented.count(),
        ErrorCode::ALL.len(),
        "a code is documented that does not exist"
    );
}
