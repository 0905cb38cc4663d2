//! Which messages are inspected.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::edge::shield::Fault;

/// Most globs in a list, and bytes in a glob.
const GLOBS_MAX: usize = 64;
const GLOB_BYTES_MAX: usize = 255;

/// Globs over `room:channel` for the traffic of rooms, and over the topic for all: what one of the
/// exclusions matches is not inspected; else what an inclusion matches, or everything if there are
/// none.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl Scope {
    /// The scope of two lists.
    ///
    /// # Errors
    /// Every glob that is none.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let scope = Self {
            include: globs("scope_include", include, &mut faults),
            exclude: globs("scope_exclude", exclude, &mut faults),
        };
        if faults.is_empty() {
            Ok(scope)
        } else {
            Err(faults)
        }
    }

    /// Whether messages of this topic are inspected. The topic decides alone: it is where a message
    /// is stored and read, whatever room the envelope names beside it.
    #[must_use]
    pub fn covers(&self, topic: &str) -> bool {
        if self.include.is_none() && self.exclude.is_none() {
            return true;
        }
        let room = topic
            .strip_prefix("room.")
            .and_then(|rest| rest.split_once('.'));
        let room = room.map(|(room, channel)| format!("{room}:{channel}"));
        let matches = |globs: &GlobSet| {
            globs.is_match(topic) || room.as_ref().is_some_and(|room| globs.is_match(room))
        };
        !self.exclude.as_ref().is_some_and(matches) && self.include.as_ref().is_none_or(matches)
    }
}

fn globs(field: &str, globs: &[String], faults: &mut Vec<Fault>) -> Option<GlobSet> {
    if globs.is_empty() {
        return None;
    }
    if globs.len() > GLOBS_MAX {
        let text = format!("{field} has {} globs, more than {GLOBS_MAX}", globs.len());
        faults.push(Fault::invalid(field, text));
        return None;
    }
    let mut set = GlobSetBuilder::new();
    for (index, glob) in globs.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if glob.is_empty() || glob.len() > GLOB_BYTES_MAX {
            let text = format!("{field} must be 1 to {GLOB_BYTES_MAX} bytes");
            faults.push(Fault::invalid(&field, text));
            continue;
        }
        match Glob::new(glob) {
            Ok(glob) => {
                set.add(glob);
            }
            Err(error) => {
                let text = format!("{field} is no glob: {}", error.kind());
                faults.push(Fault::invalid(&field, text));
            }
        }
    }
    set.build()
        .map_err(|error| faults.push(Fault::invalid(field, format!("{field}: {}", error.kind()))))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(include: &[&str], exclude: &[&str]) -> Scope {
        let owned = |globs: &[&str]| {
            globs
                .iter()
                .map(|glob| (*glob).to_owned())
                .collect::<Vec<_>>()
        };
        Scope::new(&owned(include), &owned(exclude)).expect("globs")
    }

    // EDGE-17
    #[test]
    fn exclusions_win_and_no_inclusion_means_all() {
        let all = scope(&[], &[]);
        let science = scope(&["science:*", "quake.*"], &["*:public", "quake.test.*"]);
        for (topic, in_science) in [
            ("room.science.main", true),
            ("room.science.public", false),
            ("room.art.main", false),
            ("quake.detected", true),
            ("quake.test.detected", false),
            ("other", false),
            ("room.science", false),
        ] {
            assert!(all.covers(topic), "{topic}");
            assert_eq!(science.covers(topic), in_science, "{topic}");
        }
        assert!(scope(&["room.science.*"], &[]).covers("room.science.main"));
    }

    // EDGE-17
    #[test]
    fn bad_globs_are_all_named() {
        let bad = ["a[".to_owned(), String::new()];
        let faults = Scope::new(&bad, &["{".to_owned()]).expect_err("none is a glob");
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            ["scope_include[0]", "scope_include[1]", "scope_exclude[0]"]
        );
        assert!(Scope::new(&vec!["a".to_owned(); 65], &[]).is_err());
    }
}
