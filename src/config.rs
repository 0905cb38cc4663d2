//! Every setting once: name, default, bound, doc.
