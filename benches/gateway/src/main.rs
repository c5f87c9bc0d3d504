//! Prints claim, ours, rival and ratio of the parts named on the command line, or of all.

mod balance;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    if parts.is_empty() || parts.iter().any(|part| part == "balance") {
        balance::run();
    }
}
