//! Starts the command line, nothing else.

/// A server makes and drops many things of many sizes on many threads for months: with the C
/// library's allocator a third of an idle server's CPU time went into looking for room.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    velociraptor::cli::main()
}
