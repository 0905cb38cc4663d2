//! What a machine writes, kept up to a limit; the rest is read and thrown away, so that no machine
//! ever waits for its console.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};

const READ_BYTES: usize = 8 << 10;

/// Copies until everybody who writes is gone. Blocks.
pub(super) fn keep(mut from: PipeReader, mut to: File, most: u64) -> io::Result<()> {
    let mut left = usize::try_from(most).unwrap_or(usize::MAX);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let read = match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let kept = read.min(left);
        left -= kept;
        // A full disk must not stop the machine.
        if kept > 0 && to.write_all(&bytes[..kept]).is_err() {
            left = 0;
        }
    }
}
