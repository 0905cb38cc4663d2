//! What a version of a schema is, made ready to hold payloads against: a protobuf message with all
//! that it needs, or a JSON Schema document.
//!
//! Owns the checks that come before anything is put in force. What it is given can be hostile: it
//! is refused with a reason, and never with a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use sha2::{Digest as _, Sha256};

use super::json::{BadDocument, Document};
use super::table::{Table, Unwalkable};

/// Files of one descriptor set.
const FILES_MAX: usize = 256;

/// Why something is no schema.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not the encoding of a descriptor set.
    #[error(
        "descriptors: not an encoded google.protobuf.FileDescriptorSet; make one with `arqon schema push FILE.proto` or `protoc --include_imports --descriptor_set_out`"
    )]
    Encoding(#[source] prost::DecodeError),
    /// Nothing or too much in it.
    #[error("descriptors: the set has {found} files; it must have 1 to {FILES_MAX}")]
    Files {
        /// How many.
        found: usize,
    },
    /// A language that is not known here.
    #[error("descriptors: {file:?} has the syntax {syntax:?}; known are proto2 and proto3")]
    Syntax {
        /// Its name.
        file: String,
        /// What it says.
        syntax: String,
    },
    /// Two files are called the same.
    #[error("descriptors: {file:?} is in the set twice")]
    Twice {
        /// Their name.
        file: String,
    },
    /// The set does not stand alone.
    #[error(
        "descriptors: {file:?} imports {import:?}, which is not in the set; include all imports (`protoc --include_imports`)"
    )]
    Import {
        /// Whose import.
        file: String,
        /// What is missing.
        import: String,
    },
    /// Files import each other.
    #[error("descriptors: {file:?} imports itself, directly or through others")]
    Cycle {
        /// One of them.
        file: String,
    },
    /// Does not hold together.
    #[error("descriptors: {0}")]
    Descriptors(String),
    /// The message is not there.
    #[error("message: {message:?} is not in the set; there are {there}")]
    Message {
        /// What was asked for.
        message: String,
        /// Some that there are.
        there: String,
    },
    /// The message cannot be validated.
    #[error("descriptors: {0}")]
    Unwalkable(#[from] Unwalkable),
    /// Not a JSON Schema that can be used.
    #[error(transparent)]
    Document(#[from] BadDocument),
}

impl Unusable {
    /// The argument at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Message { .. } => "message",
            Self::Document(_) => "document",
            _ => "descriptors",
        }
    }
}

/// A schema that payloads can be held against.
#[derive(Debug)]
pub struct Definition {
    /// What it is made of.
    pub form: Form,
    /// SHA-256 of what it says: two with the same digest accept the same.
    pub digest: [u8; 32],
    /// The message, made ready to be decoded when the first payload is.
    decoder: OnceLock<Option<MessageDescriptor>>,
}

/// What a schema is written in.
#[derive(Debug)]
pub enum Form {
    /// A protobuf message.
    Protobuf {
        /// An encoded descriptor set, normalised: the files that the message needs, imports first,
        /// without comments.
        descriptors: Bytes,
        /// Its full name.
        message: String,
        /// What payloads are walked by.
        table: Table,
    },
    /// A JSON Schema document.
    Json {
        /// Its text.
        text: Bytes,
        /// What payloads are held against.
        document: Document,
    },
}

impl Definition {
    /// A message of an encoded descriptor set.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn protobuf(descriptors: &[u8], message: &str) -> Result<Self, Unusable> {
        let mut set = FileDescriptorSet::decode(descriptors).map_err(Unusable::Encoding)?;
        for file in &mut set.file {
            file.source_code_info = None;
        }
        let files = in_order(set.file)?;
        let pool = pool(files.clone())?;
        let described = found(&pool, message)?;
        let needed = needed(&files, described.parent_file().name());
        let files = files
            .into_iter()
            .filter(|file| needed.contains(file.name()));
        let descriptors = FileDescriptorSet {
            file: files.collect(),
        };
        let descriptors = Bytes::from(descriptors.encode_to_vec());
        let table = shielded(|| Table::new(&described))??;
        let mut digest = Sha256::new();
        digest.update(message.as_bytes());
        digest.update([0]);
        digest.update(&descriptors);
        Ok(Self {
            form: Form::Protobuf {
                descriptors,
                message: message.to_owned(),
                table,
            },
            digest: digest.finalize().into(),
            decoder: OnceLock::new(),
        })
    }

    /// A JSON Schema document.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn json(text: &Bytes) -> Result<Self, Unusable> {
        let document = Document::new(text)?;
        Ok(Self {
            digest: Sha256::digest(text).into(),
            form: Form::Json {
                text: text.clone(),
                document,
            },
            decoder: OnceLock::new(),
        })
    }

    /// `protobuf` or `json`.
    #[must_use]
    pub const fn language(&self) -> &'static str {
        match self.form {
            Form::Protobuf { .. } => "protobuf",
            Form::Json { .. } => "json",
        }
    }

    /// Full name of the message; empty for a JSON Schema.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.form {
            Form::Protobuf { message, .. } => message,
            Form::Json { .. } => "",
        }
    }

    /// As it is stored.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        match &self.form {
            Form::Protobuf { descriptors, .. } => descriptors,
            Form::Json { text, .. } => text,
        }
    }

    /// The same as [`Self::descriptor`], kept for as long as the schema is: for payloads, of which
    /// there are many. Only schemas by which some were decoded take the memory.
    #[must_use]
    pub fn decoder(&self) -> Option<&MessageDescriptor> {
        self.decoder.get_or_init(|| self.descriptor()).as_ref()
    }

    /// The message with all that is known of it; `None` for a JSON Schema.
    #[must_use]
    pub fn descriptor(&self) -> Option<MessageDescriptor> {
        let Form::Protobuf {
            descriptors,
            message,
            ..
        } = &self.form
        else {
            return None;
        };
        let set = FileDescriptorSet::decode(descriptors.as_ref()).ok()?;
        pool(set.file).ok()?.get_message_by_name(message)
    }
}

fn pool(files: Vec<FileDescriptorProto>) -> Result<DescriptorPool, Unusable> {
    let set = FileDescriptorSet { file: files };
    shielded(|| DescriptorPool::from_file_descriptor_set(set))?
        .map_err(|error| Unusable::Descriptors(error.to_string()))
}

/// The library that reads descriptors panics over some that make no sense. A registry that is
/// folded at each start must not fall over what somebody once sent.
fn shielded<T>(work: impl FnOnce() -> T) -> Result<T, Unusable> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_panic| Unusable::Descriptors("they make no sense".to_owned()))
}

fn found(pool: &DescriptorPool, message: &str) -> Result<MessageDescriptor, Unusable> {
    let found = pool
        .get_message_by_name(message)
        .filter(|found| !found.is_map_entry());
    found.ok_or_else(|| {
        let names = pool
            .all_messages()
            .filter(|one| !one.is_map_entry() && one.package_name() != "google.protobuf");
        let there: Vec<String> = names
            .map(|one| one.full_name().to_owned())
            .take(10)
            .collect();
        Unusable::Message {
            message: message.chars().take(200).collect(),
            there: if there.is_empty() {
                "none".to_owned()
            } else {
                there.join(", ")
            },
        }
    })
}

/// The files, each after those that it imports, and otherwise by name.
fn in_order(files: Vec<FileDescriptorProto>) -> Result<Vec<FileDescriptorProto>, Unusable> {
    let found = files.len();
    if found == 0 || found > FILES_MAX {
        return Err(Unusable::Files { found });
    }
    let mut waiting: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
    for file in files {
        if !matches!(file.syntax.as_deref(), None | Some("proto2" | "proto3")) {
            let (file, syntax) = (file.name().to_owned(), file.syntax().to_owned());
            return Err(Unusable::Syntax { file, syntax });
        }
        let name = file.name().to_owned();
        if waiting.insert(name.clone(), file).is_some() {
            return Err(Unusable::Twice { file: name });
        }
    }
    for (name, file) in &waiting {
        let missing = file
            .dependency
            .iter()
            .find(|import| !waiting.contains_key(*import));
        if let Some(import) = missing {
            let (file, import) = (name.clone(), import.clone());
            return Err(Unusable::Import { file, import });
        }
    }
    let mut ordered = Vec::with_capacity(found);
    while !waiting.is_empty() {
        let ready: Vec<String> = waiting
            .iter()
            .filter(|(_, file)| {
                !file
                    .dependency
                    .iter()
                    .any(|import| waiting.contains_key(import))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if ready.is_empty() {
            let file = waiting.into_keys().next().unwrap_or_default();
            return Err(Unusable::Cycle { file });
        }
        ordered.extend(ready.iter().filter_map(|name| waiting.remove(name)));
    }
    Ok(ordered)
}

/// Names of the files that the one called `root` needs, itself included.
fn needed(files: &[FileDescriptorProto], root: &str) -> BTreeSet<String> {
    let mut needed = BTreeSet::from([root.to_owned()]);
    // Each comes after those that it imports.
    for file in files.iter().rev() {
        if needed.contains(file.name()) {
            needed.extend(file.dependency.iter().cloned());
        }
    }
    needed
}
