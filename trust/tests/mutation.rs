//! Changed inputs for decoders, where there is no coverage to lead a fuzzer: small changes of committed
//! inputs, always the same ones.
#![allow(clippy::indexing_slicing)]

/// Where a row of changes begins.
pub(crate) const SEED: u64 = 0x6d63_7066_7366_757a;

/// The next of a fixed row of numbers (xorshift), so that a failure comes again.
pub(crate) fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap_or(0)
}

/// One to four small changes: a bit, a byte that means something, a piece doubled, cut out or moved in from
/// another input.
pub(crate) fn changed(inputs: &[Vec<u8>], state: &mut u64) -> Vec<u8> {
    let mut bytes = inputs[next(state) % inputs.len()].clone();
    for _ in 0..1 + next(state) % 4 {
        let at = next(state) % (bytes.len() + 1);
        let end = (at + 1 + next(state) % 16).min(bytes.len());
        match next(state) % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (next(state) % 8),
            1 if at < bytes.len() => bytes[at] = b"\0\x01\x7f\x80\xff/.-\"{[:\n&*0 9"[next(state) % 18],
            2 if at < end => drop(bytes.drain(at..end)),
            3 if at < end => bytes.extend_from_within(at..end),
            4 => bytes.truncate(at),
            _ => {
                let other = &inputs[next(state) % inputs.len()];
                let from = next(state) % (other.len() + 1);
                let piece = other[from..(from + next(state) % 600).min(other.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}
