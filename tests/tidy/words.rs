//! The project speaks of itself alone: nothing in it names the place or the tools it was made with.

use super::rust::{line_of, words};
use super::{Finding, Tree, assert_found, assert_none};

/// CRC-32 of words, and of pairs of words with the one character between them, in lower case. As
/// sums, because a list of the words would itself be what the rule forbids.
const FORBIDDEN: [u32; 17] = [
    0x8e8947b2, 0x40d29669, 0x70574f40, 0xd0fb92ee, 0x5c387347, 0x8c2554ee, 0x541de2b2, 0xbf399c93,
    0x2feba6dd, 0xf64d721a, 0x832a9c69, 0xfad89908, 0xeed77834, 0xf93ed7c2, 0xd06144f0, 0x01d3b8e7,
    0x62490415,
];

fn forbidden_words(tree: &Tree, forbidden: &[u32]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.iter() {
        let text = text.to_lowercase();
        let mut previous = None;
        for (start, word) in words(&text) {
            let end = start + word.len();
            let pair = previous
                .filter(|&(_, previous_end)| previous_end + 1 == start)
                .map(|(previous_start, _)| &text[previous_start..end]);
            for said in [Some(word), pair].into_iter().flatten() {
                if forbidden.contains(&crc32fast::hash(said.as_bytes())) {
                    findings.push(Finding::new(
                        path,
                        line_of(&text, start),
                        format!("says '{said}'"),
                    ));
                }
            }
            previous = Some((start, end));
        }
    }
    findings
}

#[test]
fn the_project_speaks_of_itself_alone() {
    assert_none(&forbidden_words(&Tree::of_repository(), &FORBIDDEN));
}

#[test]
fn a_forbidden_word_or_pair_is_found() {
    let forbidden = [crc32fast::hash(b"elsewhere"), crc32fast::hash(b"the/place")];
    let find = |text| forbidden_words(&Tree::of(&[("docs/a.md", text)]), &forbidden);
    assert_found(&find("made\nElsewhere."), "docs/a.md", "'elsewhere'");
    assert_found(&find("see ../The/Place/x"), "docs/a.md", "'the/place'");
    assert_none(&find("the place, somewhere"));
}
