//! Several requests at once: work that waits, on a few threads, with bounded memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs `work` for each item, at most `workers` at a time, and gives the results in the items' order.
///
/// # Errors
/// The first one; items that nobody has begun are left then.
pub fn map<T: Sync, R: Send, E: Send>(
    items: &[T],
    workers: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if workers <= 1 || items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<(usize, Result<R, E>)>> = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(item);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    // Nobody panics while holding it: pushing is all that is done.
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_the_first_error_ends_it() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(map(&items, 8, |item| Ok::<_, ()>(item * 2)), Ok(items.iter().map(|item| item * 2).collect()));
        let begun = AtomicUsize::new(0);
        let failed = map(&items, 4, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 10 { Err(*item) } else { Ok(()) }
        });
        assert_eq!(failed, Err(10));
        assert!(begun.into_inner() < items.len());
    }
}
