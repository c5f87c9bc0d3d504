//! Prints ours, rival and ratio of the parts named on the command line, or of all.

mod queue;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    if parts.is_empty() || parts.iter().any(|p| p == "queue") {
        queue::run();
    }
}
