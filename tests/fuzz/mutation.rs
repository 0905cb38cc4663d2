//! Makes inputs out of others, repeatably. Knows of the formats only the words that stand in them.

use arqonbus::config::SETTINGS;
use arqonbus::log::{batch, segment};

use crate::dice::Dice;

const INPUT_BYTES_MAX: usize = 48 << 10;
const EDGES: [u64; 9] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    u32::MAX as u64,
    u64::MAX >> 1,
    u64::MAX,
];

/// What a target's inputs are made of.
pub(crate) fn words(target: &str) -> Vec<Vec<u8>> {
    let texts: Vec<String> = match target {
        "topic_filter" => ["*", ">", ".", "sys", "sys.", ".>", "a", "a.b", "\n", "é"]
            .map(str::to_owned)
            .to_vec(),
        "config" => {
            let keys = SETTINGS
                .iter()
                .flat_map(|s| [format!("[{}]\n", s.section), format!("{} = ", s.name)]);
            let variables = SETTINGS.iter().map(|s| format!("\0{}=", s.variable()));
            let values = ["true", "-1", "1e9", "[]", "\"x\"", "18446744073709551615"];
            keys.chain(variables)
                .chain(values.map(str::to_owned))
                .collect()
        }
        "token" => [
            "\"alg\"",
            "none",
            "HS256",
            "RS256",
            "\"kid\"",
            "\"hs\"",
            "\"rs\"",
            "\"exp\"",
            "\"iat\"",
            "\"nbf\"",
            "\"aud\"",
            "[\"arqonbus\"]",
            "\"crit\"",
            "\0",
            ".",
            ",",
            "null",
            "1800000000",
            "-1",
            "1e30",
        ]
        .map(str::to_owned)
        .to_vec(),
        "json_adapter" => [
            "{",
            "}",
            "[",
            "]",
            "\"",
            "\\u0000",
            "null",
            "1e999",
            "9007199254740993",
            "-0",
            "\"type\":\"message\",",
            "\"id\":",
            "\"timestamp\":\"0000-01-01T00:00:00Z\"",
            "\"metadata\":{",
            "\"payload\":",
        ]
        .map(str::to_owned)
        .to_vec(),
        "record_json" => ["{", "}", "[", "\"", "\\u0000", "\n", "null", "1e999", ","]
            .map(str::to_owned)
            .to_vec(),
        _ => return vec![batch::MAGIC.to_vec(), segment::MAGIC.to_vec(), vec![0; 64]],
    };
    texts.into_iter().map(String::into_bytes).collect()
}

/// An endless row of inputs.
pub(crate) struct Mutator {
    dice: Dice,
    inputs: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(dice: Dice, inputs: Vec<Vec<u8>>, words: Vec<Vec<u8>>) -> Self {
        Self {
            dice,
            inputs,
            words,
        }
    }

    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        // One part of the dice for each input: what it becomes does not move the others.
        let mut dice = self.dice.fork();
        let mut input = dice.pick(&self.inputs).clone();
        // The first byte of most inputs says how the others are taken.
        if dice.chance(40) && !input.is_empty() {
            input[0] = low_byte(dice.roll());
        }
        for _ in 0..=dice.below(5) {
            self.change(&mut input, &mut dice);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&self, input: &mut Vec<u8>, dice: &mut Dice) {
        let at = dice.index(input.len() + 1);
        // Most pieces are short.
        let longest = 1 << dice.below(9);
        let len = 1 + dice.index(longest);
        let end = (at + len).min(input.len());
        match dice.below(16) {
            0..=3 if at < input.len() => input[at] ^= 1 << dice.below(8),
            4 | 5 if at < input.len() => {
                let step = low_byte(1 + dice.below(4));
                input[at] = if dice.chance(50) {
                    input[at].wrapping_add(step)
                } else {
                    input[at].wrapping_sub(step)
                };
            }
            6 | 7 => {
                let width = *dice.pick(&[1, 2, 4, 8]);
                let value = dice.pick(&EDGES).to_le_bytes();
                overwrite(input, at, &value[..width]);
            }
            8 => drop(input.drain(at..end)),
            9 => {
                let piece = input[at..end].to_vec();
                let to = dice.index(input.len() + 1);
                drop(input.splice(to..to, piece));
            }
            // A sector in the wrong place.
            10 => {
                let piece = input[at..end].to_vec();
                let to = dice.index(input.len() + 1);
                overwrite(input, to, &piece);
            }
            11 => input[at..end].fill(0),
            12 => {
                let word = dice.pick(&self.words);
                drop(input.splice(at..at, word.iter().copied()));
            }
            13 => {
                let word = dice.pick(&self.words).clone();
                overwrite(input, at, &word);
            }
            14 => {
                let other = dice.pick(&self.inputs);
                let from = dice.index(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ if dice.chance(20) => input.truncate(at),
            _ => {
                let noise: Vec<u8> = (at..end).map(|_| low_byte(dice.roll())).collect();
                overwrite(input, at, &noise);
            }
        }
    }
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// Never makes the input longer.
fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    let room = input.len().saturating_sub(at).min(bytes.len());
    if room > 0 {
        input[at..at + room].copy_from_slice(&bytes[..room]);
    }
}

// REL-05: what fails can be repeated.
#[test]
fn the_same_seed_makes_the_same_inputs() {
    let row = |seed| -> Vec<Vec<u8>> {
        let inputs = vec![b"abcdefgh".to_vec(), vec![7; 40]];
        let mut mutator = Mutator::new(Dice::new(seed), inputs, words("topic_filter"));
        (0..200).map(|_| mutator.next_input()).collect()
    };
    assert_eq!(row(5), row(5));
    assert_ne!(row(5), row(6));
}
