//! What load does a backend report with its responses?
//!
//! ORCA (Open Request Cost Aggregation, `xds.data.orca.v3.OrcaLoadReport`) in the header
//! `endpoint-load-metrics`, in its three forms: `TEXT cpu_utilization=0.3, named_metrics.queue=4`,
//! `JSON {"cpu_utilization": 0.3, "named_metrics": {"queue": 4}}` and `BIN` with base64 of the message, which
//! gRPC sends as the trailer `endpoint-load-metrics-bin`. Without a first word the form is guessed.
//!
//! Metrics a model server sends by name (`kv_cache_usage_perc`, `num_requests_waiting`, …) are known. Reading
//! is total, bounded and does not allocate.

use super::signal::LoadReport;

/// Longer headers are ignored.
const MAX_LENGTH: usize = 8 << 10;

/// Reads the value of `endpoint-load-metrics` or `endpoint-load-metrics-bin`; `None` when it says nothing.
#[must_use]
pub fn load_report(value: &[u8]) -> Option<LoadReport> {
    if value.len() > MAX_LENGTH {
        return None;
    }
    let value = value.trim_ascii();
    let mut report = LoadReport::default();
    match value.split_first_chunk::<4>() {
        Some((word, rest)) if word.eq_ignore_ascii_case(b"TEXT") => text(rest, &mut report),
        Some((word, rest)) if word.eq_ignore_ascii_case(b"JSON") => json(rest, &mut report),
        Some((word, rest)) if word.eq_ignore_ascii_case(b"BIN ") => binary(rest, &mut report),
        _ if value.first() == Some(&b'{') => json(value, &mut report),
        _ if value.contains(&b'=') && !value.ends_with(b"=") => text(value, &mut report),
        _ => binary(value, &mut report),
    }
    (report != LoadReport::default()).then_some(report)
}

/// Takes one metric over; `group` is the map it stands in, if any.
fn metric(report: &mut LoadReport, group: &[u8], name: &[u8], value: f64) {
    if !(value.is_finite() && value >= 0.0) {
        return;
    }
    let most = |slot: &mut Option<f64>| *slot = Some(slot.unwrap_or(0.0).max(value));
    match (group, name) {
        (b"", b"application_utilization") if value > 0.0 => report.application_utilization = Some(value),
        (b"", b"cpu_utilization") => report.cpu_utilization = Some(value),
        (b"", b"mem_utilization") => report.memory_utilization = Some(value),
        (b"", b"rps_fractional" | b"rps") => report.requests_per_second = Some(value),
        (b"", b"eps") => report.errors_per_second = Some(value),
        (b"utilization", _) => most(&mut report.application_utilization),
        (b"named_metrics", _) => {
            let name = name.rsplit(|b| *b == b':').next().unwrap_or(name);
            match name {
                b"num_requests_waiting" | b"num_queue_reqs" | b"queue_size" | b"queue_depth" => {
                    report.waiting = Some(value);
                }
                b"num_requests_running" | b"num_running_reqs" => report.running = Some(value),
                b"kv_cache_usage_perc"
                | b"gpu_cache_usage_perc"
                | b"kv_cache_utilization"
                | b"token_usage" => {
                    most(&mut report.cache_use);
                }
                _ => {}
            }
        }
        _ => {}
    }
}

fn number(text: &[u8]) -> Option<f64> {
    // No number worth reading is longer.
    std::str::from_utf8(text.get(..text.len().min(40))?).ok()?.parse().ok()
}

fn text(value: &[u8], report: &mut LoadReport) {
    for pair in value.split(|b| *b == b',') {
        let Some(at) = pair.iter().position(|b| matches!(b, b'=' | b':')) else { continue };
        let (key, value) = (pair[..at].trim_ascii(), number(pair[at + 1..].trim_ascii()));
        let dot = key.iter().position(|b| *b == b'.');
        let (group, name) = dot.map_or((&b""[..], key), |dot| (&key[..dot], &key[dot + 1..]));
        if let Some(value) = value {
            metric(report, group, name, value);
        }
    }
}

/// Walks an object of numbers and objects of numbers; what is nested deeper is passed over.
fn json(value: &[u8], report: &mut LoadReport) {
    let (mut depth, mut group, mut key) = (0usize, &b""[..], &b""[..]);
    let mut at = 0;
    while let Some(byte) = value.get(at) {
        match byte {
            b'"' => {
                let rest = &value[at + 1..];
                let mut escaped = false;
                let end = rest.iter().position(|b| {
                    let closes = *b == b'"' && !escaped;
                    escaped = *b == b'\\' && !escaped;
                    closes
                });
                let Some(end) = end else { return };
                key = &rest[..end];
                at += end + 2;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth == 2 {
                    group = key;
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    group = b"";
                }
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
                let length = value[at..].iter().take_while(|b| is_part(b)).count();
                if let (1 | 2, Some(number)) = (depth, number(&value[at..at + length])) {
                    metric(report, canonical(group), canonical(key), number);
                }
                at += length;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

/// The JSON mapping of protobuf writes fields in camel case.
fn canonical(key: &[u8]) -> &[u8] {
    match key {
        b"cpuUtilization" => b"cpu_utilization",
        b"memUtilization" => b"mem_utilization",
        b"applicationUtilization" => b"application_utilization",
        b"rpsFractional" => b"rps_fractional",
        b"namedMetrics" => b"named_metrics",
        _ => key,
    }
}

/// Base64 (either alphabet, padding optional) of an `OrcaLoadReport`.
fn binary(value: &[u8], report: &mut LoadReport) {
    let mut buffer = [0u8; MAX_LENGTH * 3 / 4];
    let (mut length, mut bits, mut count) = (0, 0u32, 0);
    for byte in value.trim_ascii().iter().filter(|b| **b != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return,
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            let Some(slot) = buffer.get_mut(length) else { return };
            *slot = (bits >> count) as u8;
            length += 1;
        }
    }
    let mut message = &buffer[..length];
    while let Some((field, value)) = protobuf_field(&mut message) {
        let name: (&[u8], &[u8]) = match field {
            1 => (b"", b"cpu_utilization"),
            2 => (b"", b"mem_utilization"),
            6 => (b"", b"rps_fractional"),
            7 => (b"", b"eps"),
            9 => (b"", b"application_utilization"),
            5 => (b"utilization", b""),
            8 => (b"named_metrics", b""),
            _ => continue,
        };
        match value {
            Value::Double(number) => metric(report, name.0, name.1, number),
            Value::Bytes(mut entry) if !name.0.is_empty() => {
                let (mut key, mut number) = (&b""[..], 0.0);
                while let Some((field, value)) = protobuf_field(&mut entry) {
                    match (field, value) {
                        (1, Value::Bytes(bytes)) => key = bytes,
                        (2, Value::Double(double)) => number = double,
                        _ => {}
                    }
                }
                metric(report, name.0, key, number);
            }
            _ => {}
        }
    }
}

#[derive(Debug)]
enum Value<'a> {
    Double(f64),
    Bytes(&'a [u8]),
    Other,
}

/// The next field of a protobuf message; `None` at its end or where it is malformed.
fn protobuf_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => {
            varint(message)?;
            Value::Other
        }
        1 => {
            let (bytes, rest) = message.split_first_chunk::<8>()?;
            *message = rest;
            Value::Double(f64::from_le_bytes(*bytes))
        }
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        5 => {
            *message = message.get(4..)?;
            Value::Other
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> LoadReport {
        LoadReport {
            waiting: Some(3.0),
            cache_use: Some(0.4),
            cpu_utilization: Some(0.3),
            requests_per_second: Some(10.0),
            ..LoadReport::default()
        }
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let text = b"TEXT cpu_utilization=0.3, rps_fractional=10.0,named_metrics.kv_cache_usage_perc=0.4,named_metrics.num_requests_waiting=3";
        let json = br#"JSON {"cpu_utilization": 0.3, "rps_fractional": 1e1, "x": {"y": {"cpu_utilization": 9}}, "named_metrics": {"kv_cache_usage_perc": 0.4, "num_requests_waiting": 3.0}}"#;
        assert_eq!(load_report(text), Some(expected()));
        assert_eq!(load_report(json), Some(expected()));
        assert_eq!(load_report(&json[5..]), Some(expected()));
        assert_eq!(load_report(&text[5..]), Some(expected()));
        // Fields 1 and 6 as doubles, twice field 8 as a map entry of string and double.
        let mut message = vec![0x09];
        message.extend(0.3f64.to_le_bytes());
        message.push(0x31);
        message.extend(10f64.to_le_bytes());
        for (name, value) in [("kv_cache_usage_perc", 0.4f64), ("num_requests_waiting", 3.0)] {
            message.extend([0x42, (name.len() + 11) as u8, 0x0a, name.len() as u8]);
            message.extend(name.as_bytes());
            message.push(0x11);
            message.extend(value.to_le_bytes());
        }
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let base64: Vec<u8> = message
            .chunks(3)
            .flat_map(|chunk| {
                let bits =
                    chunk.iter().fold(0u32, |bits, b| (bits << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
                (0..=chunk.len()).map(move |six| alphabet[(bits >> (18 - 6 * six)) as usize & 63])
            })
            .collect();
        assert_eq!(load_report(&base64), Some(expected()));
        assert_eq!(load_report(&[b"BIN ", &base64[..]].concat()), Some(expected()));
    }

    #[test]
    fn nonsense_says_nothing() {
        for text in [
            "",
            "TEXT",
            "JSON {",
            "JSON \"",
            "TEXT cpu_utilization=nan",
            "TEXT cpu_utilization=-1",
            "BIN ????",
            "JSON [[[[1]]]]",
        ] {
            assert_eq!(load_report(text.as_bytes()), None, "{text}");
        }
        assert_eq!(load_report(&vec![b'{'; 100_000]), None);
    }
}
