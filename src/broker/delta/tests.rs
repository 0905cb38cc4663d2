//! What bases and deltas may follow each other, and what is known of them after a restart.

use super::chains::{Book, Chain, follow};
use super::*;

const STAND: Stand = Stand {
    generation: 0,
    edition: 1,
    removals: 0,
};

fn said(mark: Option<Mark>) -> Said {
    Said { mark, ends: false }
}

// MSG-14
#[test]
fn a_mark_is_read_or_there_is_none() {
    assert_eq!(Mark::read("base"), Some(Mark::Base));
    assert_eq!(Mark::read("on=17"), Some(Mark::On(17)));
    for wrong in ["", "Base", "on=", "on=0", "on=+1", "on=-1", "on=1 ", "17"] {
        assert_eq!(Mark::read(wrong), None, "{wrong:?}");
    }
}

// MSG-14: what does not follow ends the chain, and so does the end of the key.
#[test]
fn a_chain_is_a_base_and_what_follows_it() {
    let base = follow(None, said(Some(Mark::Base)), 5);
    assert_eq!(base, Some(Chain { base: 5, last: 5 }));
    let on = |on| said(Some(Mark::On(on)));
    assert_eq!(follow(base, on(5), 9), Some(Chain { base: 5, last: 9 }));
    assert_eq!(follow(base, on(4), 9), None);
    assert_eq!(follow(None, on(4), 9), None);
    assert_eq!(follow(base, said(None), 9), None);
    let gone = Said {
        mark: Some(Mark::On(5)),
        ends: true,
    };
    assert_eq!(follow(base, gone, 9), None);
}

// MSG-14, BRK-18: no more keys are held than there may be; what is taken back is as it was.
#[test]
fn the_key_that_was_silent_longest_is_forgotten() {
    let mut book = Book::new(STAND, 3);
    let key = |name: u64| Key::of("t", &name.to_string());
    let mut changes = Vec::new();
    for name in 1..=3 {
        book.note(key(name), said(Some(Mark::Base)), name, &mut changes);
    }
    book.note(key(1), said(Some(Mark::On(1))), 4, &mut changes);
    changes.clear();
    book.note(key(5), said(Some(Mark::Base)), 5, &mut changes);
    let lasts = |book: &Book| [1, 2, 3, 5].map(|name| book.last_of(key(name)));
    assert_eq!(lasts(&book), [4, 0, 3, 5]);
    book.take_back(&mut changes);
    assert_eq!(lasts(&book), [4, 2, 3, 0]);
    // What is forgotten next is still in order.
    book.note(key(6), said(Some(Mark::Base)), 6, &mut changes);
    assert_eq!(lasts(&book), [4, 0, 3, 0]);
}

// MSG-14: rules for everything do not reach the topics of the node.
#[test]
fn topics_of_the_node_are_no_delta_topics() {
    let all = Declared::of(&[">", "op.>", "dlq.>"]);
    assert!(all.is_delta("a.b") && !Declared::default().is_delta("a.b"));
    for topic in ["sys.log", "op.store.n.k", "dlq.c"] {
        assert!(!all.is_delta(topic), "{topic}");
    }
}
