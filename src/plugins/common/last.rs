//! What an accessor opened last, kept: a walk asks for the same image or archive again
//! and again.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::path::Delegate;

/// The last of something, by the file it was opened from.
#[derive(Debug)]
pub struct Last<T>(Mutex<Option<(Delegate, T)>>);

impl<T> Default for Last<T> {
    fn default() -> Self {
        Last(Mutex::default())
    }
}

impl<T: Clone> Last<T> {
    /// What was opened from `file`, if that was the last; otherwise `open` does it. Two who
    /// ask at once may both open it: nobody waits for another's reading.
    pub fn or_open(&self, file: &Delegate, open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, known)) = kept.filter(|(of, _)| of == file) {
            return Ok(known);
        }
        let opened = open()?;
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((file.clone(), opened.clone()));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_kept_and_a_failure_is_not() {
        let of =
            |path: &str| Delegate { accessor: String::new(), path: path.into(), nested: false };
        let last = Last::default();
        assert_eq!(last.or_open(&of("a"), || Ok(1)).unwrap(), 1);
        assert_eq!(last.or_open(&of("a"), || Ok(2)).unwrap(), 1);
        assert!(last.or_open(&of("b"), || Err(io::ErrorKind::NotFound.into())).is_err());
        assert_eq!(last.or_open(&of("a"), || Ok(3)).unwrap(), 1);
        assert_eq!(last.or_open(&of("b"), || Ok(4)).unwrap(), 4);
        assert_eq!(last.or_open(&of("a"), || Ok(5)).unwrap(), 5);
    }
}
