//! One frontend's life: sessions, admission, task delivery, ingest.
