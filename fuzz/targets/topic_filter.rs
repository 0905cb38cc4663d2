//! Target: topic filters, against the rule said as plainly as it can be.

use arqonbus::broker::filter::Filter;
use arqonbus::broker::name::{TOPIC_BYTES_MAX, TOPIC_DEPTH_MAX, check_topic};
use arqonbus::broker::trie::Trie;

/// The input is lines: a filter, a second filter, topics.
///
/// # Panics
/// Something does not hold.
pub fn topic_filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let (first, second) = (parsed(lines.next()), parsed(lines.next()));
    let mut trie = Trie::default();
    for (number, filter) in [&first, &second].into_iter().enumerate() {
        if let Some(filter) = filter {
            trie.insert(filter, number);
        }
    }
    for topic in lines.take(16) {
        let is_valid = is_well_formed(topic, is_plain);
        assert_eq!(check_topic(topic).is_ok(), is_valid, "topic {topic:?}");
        if !is_valid {
            continue;
        }
        let wants = |filter: &Option<Filter>| filter.as_ref().is_some_and(|f| wants(f, topic));
        let mut found = Vec::new();
        trie.matches(topic, |number| found.push(*number));
        found.sort_unstable();
        let expected = [wants(&first), wants(&second)];
        let expected: Vec<usize> = (0..2).filter(|&number| expected[number]).collect();
        assert_eq!(found, expected, "{topic:?} in the trie");
        for (wide, narrow) in [(&first, &second), (&second, &first)] {
            if let (Some(wide), Some(narrow)) = (wide, narrow)
                && wide.covers(narrow)
                && narrow.matches(topic)
            {
                assert!(wide.matches(topic), "{wide} covers {narrow} but {topic}");
            }
        }
    }
    for filter in [&first, &second].into_iter().flatten() {
        assert!(filter.covers(filter), "{filter} does not cover itself");
    }
    for (number, filter) in [&first, &second].into_iter().enumerate() {
        if let Some(filter) = filter {
            assert!(trie.remove(filter, &number), "{filter} was inserted");
        }
    }
    assert!(trie.is_empty());
}

fn parsed(text: Option<&str>) -> Option<Filter> {
    let text = text?;
    let rest_is_last = text.split('.').rev().skip(1).all(|token| token != ">");
    let is_valid =
        rest_is_last && is_well_formed(text, |token| matches!(token, "*" | ">") || is_plain(token));
    match Filter::new(text) {
        Ok(filter) => {
            assert!(is_valid, "{text:?} is no filter");
            assert_eq!(filter.as_str(), text);
            Some(filter)
        }
        Err(error) => {
            assert!(!is_valid, "{text:?}: {error}");
            None
        }
    }
}

fn is_well_formed(text: &str, token_is_good: impl Fn(&str) -> bool) -> bool {
    text.len() <= TOPIC_BYTES_MAX
        && text.split('.').count() <= TOPIC_DEPTH_MAX
        && text
            .split('.')
            .all(|token| !token.is_empty() && token_is_good(token))
}

fn is_plain(token: &str) -> bool {
    token
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_~:@+=-".contains(c))
}

fn wants(filter: &Filter, topic: &str) -> bool {
    let tokens: Vec<&str> = filter.as_str().split('.').collect();
    let topic_tokens: Vec<&str> = topic.split('.').collect();
    let expected = naive(&tokens, &topic_tokens, true);
    assert_eq!(filter.matches(topic), expected, "{filter} and {topic}");
    expected
}

fn naive(filter: &[&str], topic: &[&str], first: bool) -> bool {
    match (filter, topic) {
        ([], []) => true,
        ([_, ..], []) | ([], [_, ..]) => false,
        ([">"], [head, ..]) => !(first && *head == "sys"),
        (["*", filter @ ..], [head, topic @ ..]) => {
            !(first && *head == "sys") && naive(filter, topic, false)
        }
        ([wanted, filter @ ..], [head, topic @ ..]) => {
            wanted == head && naive(filter, topic, false)
        }
    }
}
