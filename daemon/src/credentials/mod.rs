//! How a credential's value comes from its source to the one server that may have it.
//!
//! A value is in as few processes as there can be: the *reader*, a short-lived process of its own that reads one
//! source, and the server. The reader puts it into sealed memory that belongs to the user who launches, mode
//! 0400, and gives out a descriptor that is good for nothing but to open that memory anew (`O_PATH`). So it can
//! be passed on by whoever may not read it: the worker, which is hostile once it was taken over, and the
//! supervisor, which must never wait. The launcher opens it, as its user.
//!
//! What a worker asks for it asks on behalf of a connection, which it hands over. The reader takes the user and
//! his groups from the kernel's word about that connection, and looks whether it is one of the control socket: a
//! worker alone gets nothing, and one with an accomplice gets him what he may have anyway.
//!
//! A source is read at each launch, so a secret that was rotated counts from the next one on. Rejected: values in
//! the worker's memory or in the supervisor's (a core dump, a hostile worker), one reader that stays (a source
//! that hangs would be in everybody's way), and a directory of files for servers without a sandbox (nobody is
//! there to remove them).

mod command;
mod order;
mod peer;
mod reader;
mod source;

pub(crate) use self::order::{Order, Receiver, Refused, Whom};
pub(crate) use self::reader::without_traces;
pub use self::reader::{invoked, run};
pub(crate) use self::source::{Unusable, usable};

/// Longest value, bytes.
pub(crate) const VALUE_BYTES: usize = 64 << 10;
