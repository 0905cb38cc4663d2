//! The floor, step by step, with the time given.

use super::super::manifest::tests::join;
use super::super::task::State;
use super::*;

const T0: Micros = Micros(1_700_000_000_000_000);

fn at(ms: u64) -> Micros {
    after(T0, ms)
}

fn manifest(instance: &str, change: impl FnOnce(&mut Manifest)) -> Arc<Manifest> {
    let mut manifest = Manifest::read(join(instance)).unwrap();
    change(&mut manifest);
    Arc::new(manifest)
}

fn order(id: &str) -> Order {
    Order {
        id: id.into(),
        group: "g".into(),
        ..Order::default()
    }
}

fn floor(instances: &[&str]) -> (Floor, Vec<u64>) {
    let mut floor = Floor::new(T0);
    let join = |instance: &&str| {
        let key = floor.join(manifest(instance, |_| {})).unwrap();
        floor.stand(key, Standing::Ready);
        key
    };
    let keys = instances.iter().map(join).collect();
    (floor, keys)
}

fn failure(cause: Cause) -> Failure {
    Failure {
        cause,
        ..lost("it said so")
    }
}

fn done(floor: &mut Floor, place: &Place) {
    let finished = Finished {
        state: State::Done,
        sequence: 9,
        answers: Vec::new(),
    };
    floor.finish(place, &finished);
}

fn to(offers: &[Offer]) -> Vec<(&str, &str)> {
    let pair = |offer: &'_ Offer| (offer.id.clone(), offer.instance.clone());
    let mut all: Vec<_> = offers.iter().map(pair).collect();
    all.sort();
    // Leaked for the comparison's sake: a test ends soon.
    all.into_iter()
        .map(|(id, by)| (&*id.leak(), &*by.leak()))
        .collect()
}

// OPS-02
#[test]
fn balanced_tasks_go_to_whoever_has_room() {
    let (mut floor, keys) = floor(&["a", "b"]);
    for (at, id) in ["1", "2", "3"].into_iter().enumerate() {
        floor.add(at as u64 + 1, order(id), 0, Vec::new());
    }
    let offers = floor.offers(T0);
    assert_eq!(to(&offers), [("1", "a"), ("2", "b")]);
    assert!(floor.offers(T0).is_empty(), "nobody has room");
    let first = floor.take(keys[0], "1", offers[0].lease).unwrap();
    assert!(first.is_last);
    floor.close(&first.place).unwrap();
    done(&mut floor, &first.place);
    assert_eq!(to(&floor.offers(T0)), [("3", "a")]);
}

// OPS-02
#[test]
fn the_same_key_is_never_in_hand_twice_and_keeps_its_order() {
    let (mut floor, keys) = floor(&["a", "b"]);
    for (at, id) in ["1", "2"].into_iter().enumerate() {
        let keyed = Order {
            key: Some("k".into()),
            ..order(id)
        };
        floor.add(at as u64 + 1, keyed, 0, Vec::new());
    }
    let offers = floor.offers(T0);
    assert_eq!(to(&offers), [("1", "a")]);
    let place = ("g".to_owned(), 1);
    let next = floor.fail(&place, keys[0], failure(Cause::Retryable(0)), T0);
    assert!(matches!(next, Some(Next::Again(_))));
    assert!(
        floor.offers(at(50)).is_empty(),
        "the first is to be tried again first"
    );
    assert_eq!(
        to(&floor.offers(at(100))),
        [("1", "b")],
        "who failed goes last"
    );
}

// OPS-04
#[test]
fn what_one_had_who_is_gone_goes_to_another_at_once() {
    let (mut floor, keys) = floor(&["a", "b"]);
    floor.add(1, order("1"), 0, Vec::new());
    let given = floor.offers(T0);
    assert_eq!(to(&given), [("1", "a")]);
    let next = floor.leave(keys[0], at(1));
    assert!(matches!(&next[..], [Next::Again(failed)] if failed.why.code == "OPERATOR_LOST"));
    let again = floor.offers(at(1));
    assert_eq!(to(&again), [("1", "b")]);
    assert_eq!(again[0].attempt, 2);
    let late = floor.take(keys[0], "1", given[0].lease).unwrap_err();
    assert_eq!(late.code, ErrorCode::Stale);
}

// OPS-04
#[test]
fn a_lease_that_is_over_gives_the_task_to_another_and_the_old_one_counts_for_nothing() {
    let (mut floor, keys) = floor(&["a", "b"]);
    floor.add(1, order("1"), 0, Vec::new());
    let given = floor.offers(T0);
    assert_eq!(floor.due(T0), Some(at(30_000)));
    let until = floor
        .extend(keys[0], "1", given[0].lease, at(20_000))
        .unwrap();
    assert_eq!(until, at(50_000));
    assert!(floor.tick(at(49_999)).is_empty());
    assert_eq!(floor.tick(at(50_000)).len(), 1);
    assert_eq!(to(&floor.offers(at(50_000))), [("1", "b")]);
    assert!(
        floor
            .extend(keys[0], "1", given[0].lease, at(50_000))
            .is_err()
    );
    // It hangs, and is given nothing more until it says something.
    floor.add(2, order("2"), 0, Vec::new());
    assert!(floor.offers(at(50_000)).is_empty());
    let late = floor.take(keys[0], "1", given[0].lease).unwrap_err();
    assert_eq!(late.code, ErrorCode::Stale);
    assert_eq!(to(&floor.offers(at(50_000))), [("2", "a")]);
}

// OPS-04
#[test]
fn what_may_have_had_its_effect_is_not_given_to_another() {
    let mut floor = Floor::new(T0);
    let careful = manifest("a", |one| one.effects = Effects::Effectful);
    let key = floor.join(careful).unwrap();
    floor.stand(key, Standing::Ready);
    floor.add(1, order("1"), 0, Vec::new());
    assert_eq!(floor.offers(T0).len(), 1);
    let next = floor.leave(key, T0);
    assert!(matches!(
        &next[..],
        [Next::Close(Closing {
            end: End::Dead(_),
            ..
        })]
    ));
}

// OPS-02, OPS-04
#[test]
fn enough_failures_are_the_end() {
    let (mut floor, keys) = floor(&["a"]);
    floor.add(1, order("1"), 0, Vec::new());
    let place = ("g".to_owned(), 1);
    let mut now = T0;
    for attempt in 1..=ATTEMPTS_MAX {
        let offers = floor.offers(now);
        assert_eq!(offers[0].attempt, attempt);
        let why = failure(Cause::Contract);
        let next = floor.fail(&place, keys[0], why, now).unwrap();
        let is_end = matches!(
            next,
            Next::Close(Closing {
                end: End::Dead(_),
                ..
            })
        );
        assert_eq!(is_end, attempt == ATTEMPTS_MAX);
        now = floor.due(now).unwrap_or(now);
    }
    assert!(floor.offers(at(1 << 30)).is_empty(), "it is closed");
    // One that says so itself needs no second attempt.
    floor.add(2, order("2"), 0, Vec::new());
    floor.offers(now);
    let next = floor.fail(&("g".into(), 2), keys[0], failure(Cause::Final), now);
    assert!(matches!(next, Some(Next::Close(_))));
}

// OPS-02
#[test]
fn everybody_gets_a_broadcast_and_it_ends_when_all_have_answered_or_gone() {
    let (mut floor, keys) = floor(&["a", "b", "c"]);
    let all = Order {
        mode: Mode::Broadcast,
        selection: Selection::All,
        ..order("1")
    };
    floor.add(1, all, 0, Vec::new());
    let offers = floor.offers(T0);
    assert_eq!(to(&offers), [("1", "a"), ("1", "b"), ("1", "c")]);
    let place = ("g".to_owned(), 1);
    for (offer, key) in offers.iter().zip(&keys).take(2) {
        let taken = floor.take(*key, "1", offer.lease).unwrap();
        assert!(!taken.is_last);
        let again = floor.take(*key, "1", offer.lease).unwrap_err();
        assert_eq!(again.code, ErrorCode::Stale, "nobody answers twice");
        let answer = Answer {
            instance: offer.instance.clone(),
            ..Answer::default()
        };
        assert!(floor.note(&place, *key, answer).is_none());
    }
    let next = floor.leave(keys[2], T0);
    let [
        Next::Close(Closing {
            end: End::Done(answers),
            ..
        }),
    ] = &next[..]
    else {
        panic!("{next:?}");
    };
    assert_eq!(answers.len(), 2);
}

// OPS-02
#[test]
fn the_best_score_wins_within_the_deadline() {
    let (mut floor, keys) = floor(&["a", "b", "c"]);
    let best = Order {
        mode: Mode::Competing,
        selection: Selection::Best,
        deadline: Some(at(1_000)),
        ..order("1")
    };
    floor.add(1, best, 0, Vec::new());
    let offers = floor.offers(T0);
    let place = ("g".to_owned(), 1);
    for ((offer, key), score) in offers.iter().zip(&keys).zip([0.5, 0.9]) {
        floor.take(*key, "1", offer.lease).unwrap();
        let answer = Answer {
            instance: offer.instance.clone(),
            score: Some(score),
            ..Answer::default()
        };
        floor.note(&place, *key, answer);
    }
    assert!(floor.tick(at(999)).is_empty());
    let next = floor.tick(at(1_000));
    let [
        Next::Close(Closing {
            end: End::Done(answers),
            ..
        }),
    ] = &next[..]
    else {
        panic!("{next:?}");
    };
    assert_eq!(answers[0].instance, "b");
    let late = floor.take(keys[2], "1", offers[2].lease).unwrap_err();
    assert_eq!(late.code, ErrorCode::Stale);
}

// OPS-02
#[test]
fn the_first_valid_answer_wins_and_the_others_are_too_late() {
    let (mut floor, keys) = floor(&["a", "b"]);
    let first = Order {
        mode: Mode::Competing,
        ..order("1")
    };
    floor.add(1, first, 0, Vec::new());
    let offers = floor.offers(T0);
    let a = floor.take(keys[0], "1", offers[0].lease).unwrap();
    let b = floor.take(keys[1], "1", offers[1].lease).unwrap();
    // The first of them turns out not to fit.
    let next = floor.fail(&a.place, keys[0], failure(Cause::Contract), T0);
    assert!(matches!(next, Some(Next::Again(_))));
    floor.close(&b.place).unwrap();
    assert!(floor.close(&b.place).is_err());
    done(&mut floor, &b.place);
    assert_eq!(floor.open(None), 0);
    // One that answers too late, before or after the end is written, has room again.
    for id in ["2", "3"] {
        let again = Order {
            mode: Mode::Competing,
            ..order(id)
        };
        floor.add(floor.count + 1, again, 0, Vec::new());
        let offers = floor.offers(T0);
        assert_eq!(offers.len(), 2, "both have room");
        let winner = floor.take(keys[0], id, offers[0].lease).unwrap();
        floor.close(&winner.place).unwrap();
        if id == "2" {
            let late = floor.take(keys[1], id, offers[1].lease).unwrap_err();
            assert_eq!(late.code, ErrorCode::Stale);
        }
        done(&mut floor, &winner.place);
        if id == "3" {
            assert!(!floor.members[&keys[1]].has_room());
            floor.take(keys[1], id, offers[1].lease).unwrap_err();
        }
        assert!(floor.members[&keys[1]].has_room());
    }
}

// OPS-02
#[test]
fn a_task_that_names_its_operator_or_what_it_must_do_waits_for_one() {
    let (mut floor, _) = floor(&["a"]);
    let direct = Order {
        mode: Mode::Direct,
        operator: Some("b".into()),
        ..order("1")
    };
    let able = Order {
        capability: Some("ocr".into()),
        ..order("2")
    };
    floor.add(1, direct, 0, Vec::new());
    floor.add(2, able, 0, Vec::new());
    assert!(floor.offers(T0).is_empty());
    let b = manifest("b", |one| {
        one.capabilities = vec!["ocr".into()];
        one.concurrency = 2;
    });
    let b = floor.join(b).unwrap();
    assert!(floor.offers(T0).is_empty(), "it has not been told yet");
    floor.stand(b, Standing::Ready);
    assert_eq!(to(&floor.offers(T0)), [("1", "b"), ("2", "b")]);
    assert_eq!(floor.group_for("ocr").as_deref(), Some("g"));
}

// OPS-01
#[test]
fn an_instance_is_there_once_and_one_that_breaks_its_contract_is_given_nothing() {
    let (mut floor, keys) = floor(&["a"]);
    let refused = floor.join(manifest("a", |_| {})).unwrap_err();
    assert_eq!(
        (refused.field.as_str(), refused.retry_after_ms),
        ("instance", 1_000)
    );
    let breaches: Vec<bool> = (0..BREACHES_MAX).map(|_| floor.breached(keys[0])).collect();
    assert_eq!(breaches, [false, false, true]);
    floor.add(1, order("1"), 0, Vec::new());
    assert!(floor.offers(T0).is_empty());
    floor.stand(keys[0], Standing::Ready);
    assert_eq!(floor.offers(T0).len(), 1);
}

// OPS-02
#[test]
fn whoever_waits_is_told_once_how_it_ended() {
    let (mut floor, _) = floor(&[]);
    floor.add(1, order("1"), 0, Vec::new());
    let (tell, told) = std::sync::mpsc::channel();
    assert!(floor.listen("1", Box::new(move |end| tell.send(end.state).unwrap())));
    assert!(!floor.listen("2", Box::new(|_| panic!("there is no such task"))));
    done(&mut floor, &("g".to_owned(), 1));
    assert_eq!(told.recv().unwrap(), State::Done);
    assert!(told.recv().is_err());
}
