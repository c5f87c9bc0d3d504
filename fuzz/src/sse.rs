//! Are the events of a stream the same wherever its chunks are cut, and those that the standard names?

use traflux_gateway::SseParser;

use crate::chunks;

type Event = (Vec<u8>, Vec<u8>);

/// The first byte bounds an event, the second tells how many lengths of chunks follow, the rest is the stream.
pub fn check(data: &[u8]) {
    let [bound, count, rest @ ..] = data else { return };
    let (lengths, stream) = rest.split_at(rest.len().min(usize::from(*count % 8)));
    for most in [usize::from(*bound), 1 << 20] {
        let (whole, skipped) = read(most, &[stream]);
        for cut in [chunks(stream, &[1]), chunks(stream, lengths)] {
            if !cut.is_empty() {
                assert_eq!(read(most, &cut), (whole.clone(), skipped), "the cuts change what is read");
            }
        }
        assert!(whole.iter().all(|(event, data)| event.len() <= most && data.len() <= most));
        if most > data.len() {
            assert_eq!(whole, by_the_standard(stream));
            assert_eq!(skipped, 0);
        }
    }
}

fn read(most: usize, chunks: &[&[u8]]) -> (Vec<Event>, u64) {
    let mut parser = SseParser::new(most);
    let mut events = Vec::new();
    for chunk in chunks {
        parser.push(chunk, |event| events.push((event.event.to_vec(), event.data.to_vec())));
    }
    (events, parser.skipped())
}

/// HTML, section 9.2.6, step by step and without care for memory.
fn by_the_standard(stream: &[u8]) -> Vec<Event> {
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut before = 0;
    for byte in stream {
        match (before, byte) {
            (b'\r', b'\n') => {}
            (_, b'\n' | b'\r') => lines.push(Vec::new()),
            _ => lines.last_mut().into_iter().for_each(|line| line.push(*byte)),
        }
        before = *byte;
    }
    // What has no end of line is not a line yet.
    lines.pop();
    let (mut events, mut kind, mut data) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
    for line in lines {
        if line.is_empty() {
            let kind = std::mem::take(&mut kind);
            events.extend(data.take().map(|data| (kind, data)));
            continue;
        }
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => kind = value.to_vec(),
            b"data" => match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            },
            _ => {}
        }
    }
    events
}
