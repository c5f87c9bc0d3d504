//! Is the usage that an answer states found wherever its chunks are cut?

use traflux_gateway::{BodyKind, Usage, UsageReader};

use crate::chunks;

/// The first byte tells the kind of answer and how many lengths of chunks follow, the rest is the answer.
pub fn check(data: &[u8]) {
    let [first, rest @ ..] = data else { return };
    let (lengths, body) = rest.split_at(rest.len().min(usize::from(*first >> 1) % 8));
    let kind = if first & 1 == 0 { BodyKind::Json } else { BodyKind::Stream };
    let whole = read(kind, &[body]);
    for cut in [chunks(body, &[1]), chunks(body, lengths)] {
        // An object beyond 8 KiB is found or not as the chunks happen to lie.
        if !cut.is_empty() && body.len() <= 8 << 10 {
            assert_eq!(read(kind, &cut), whole, "the cuts change what is read");
        }
    }
    let _ = std::str::from_utf8(body).map(BodyKind::of_content_type);
}

fn read(kind: BodyKind, chunks: &[&[u8]]) -> (Option<Usage>, u64) {
    let mut reader = UsageReader::new(kind);
    chunks.iter().for_each(|chunk| reader.push(chunk));
    (reader.usage(), reader.pieces())
}
