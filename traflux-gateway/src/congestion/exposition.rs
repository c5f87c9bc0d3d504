//! What do the metrics of a model server say about its load?
//!
//! Reads the Prometheus text that vLLM, SGLang, text-generation-inference and Triton with TensorRT-LLM serve
//! at `/metrics`: requests waiting and running (summed over engines) and the use of the key-value cache (the
//! fullest engine). One pass, no allocation, total; [`MAX_LENGTH`] bounds the text.

use super::signal::LoadReport;

/// What lies beyond this many bytes is not read.
pub const MAX_LENGTH: usize = 4 << 20;

/// Reads the load of a server, or of one model of it (label `model_name`), from Prometheus text.
#[must_use]
pub fn server_metrics(text: &[u8], model: Option<&str>) -> LoadReport {
    let mut report = LoadReport::default();
    for line in text[..text.len().min(MAX_LENGTH)].split(|b| *b == b'\n') {
        let line = line.trim_ascii();
        let Some(end) = line.iter().position(|b| matches!(b, b'{' | b' ' | b'\t')) else { continue };
        let Some(meaning) = meaning(&line[..end]) else { continue };
        let (labels, rest) = labels(&line[end..]);
        let is_other =
            |model: &str| label(labels, b"model_name").is_some_and(|name| name != model.as_bytes());
        if model.is_some_and(is_other) {
            continue;
        }
        let value = rest.trim_ascii().split(u8::is_ascii_whitespace).next();
        let value =
            value.and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.parse().ok());
        let Some(value) = value.filter(|value: &f64| value.is_finite() && *value >= 0.0) else { continue };
        // A sum of finite numbers need not be one.
        let add = |slot: &mut Option<f64>| *slot = Some((slot.unwrap_or(0.0) + value).min(f64::MAX));
        match meaning {
            Meaning::Waiting => add(&mut report.waiting),
            Meaning::Running => add(&mut report.running),
            Meaning::Cache => report.cache_use = Some(report.cache_use.unwrap_or(0.0).max(value)),
            Meaning::TritonRequests => match label(labels, b"request_type") {
                Some(b"waiting") => add(&mut report.waiting),
                Some(b"scheduled") => add(&mut report.running),
                _ => {}
            },
            Meaning::TritonBlocks => {
                if label(labels, b"kv_cache_block_type") == Some(b"fraction") {
                    report.cache_use = Some(report.cache_use.unwrap_or(0.0).max(value));
                }
            }
        }
    }
    report
}

#[derive(Debug, Clone, Copy)]
enum Meaning {
    Waiting,
    Running,
    Cache,
    TritonRequests,
    TritonBlocks,
}

fn meaning(name: &[u8]) -> Option<Meaning> {
    Some(match name {
        b"vllm:num_requests_waiting" | b"sglang:num_queue_reqs" | b"tgi_queue_size" => Meaning::Waiting,
        b"vllm:num_requests_running" | b"sglang:num_running_reqs" | b"tgi_batch_current_size" => {
            Meaning::Running
        }
        b"vllm:kv_cache_usage_perc" | b"vllm:gpu_cache_usage_perc" | b"sglang:token_usage" => Meaning::Cache,
        b"nv_trt_llm_request_metrics" => Meaning::TritonRequests,
        b"nv_trt_llm_kv_cache_block_metrics" => Meaning::TritonBlocks,
        _ => return None,
    })
}

/// Splits `{labels} value`; the closing brace is the first outside quotes.
fn labels(rest: &[u8]) -> (&[u8], &[u8]) {
    let Some(inner) = rest.strip_prefix(b"{") else { return (b"", rest) };
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.iter().position(|b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *b == b'}' && !quoted
    });
    end.map_or((&b""[..], &b""[..]), |end| (&inner[..end], &inner[end + 1..]))
}

/// The value of a label, as written (escapes are left in).
fn label<'a>(mut labels: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    while let Some(equals) = labels.iter().position(|b| *b == b'=') {
        let name = labels[..equals].trim_ascii();
        let quoted = labels[equals + 1..].trim_ascii_start().strip_prefix(b"\"")?;
        let mut escaped = false;
        let end = quoted.iter().position(|b| {
            let closes = *b == b'"' && !escaped;
            escaped = *b == b'\\' && !escaped;
            closes
        })?;
        if name == wanted {
            return Some(&quoted[..end]);
        }
        labels = quoted[end + 1..].trim_ascii_start();
        labels = labels.strip_prefix(b",").unwrap_or(labels);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_of_one_model_are_summed_and_the_fullest_cache_counts() {
        let text = br#"# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0
vllm:num_requests_waiting{engine="1",model_name="meta-llama/Llama-3.1-8B-Instruct"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a \"quoted}\" name"} 100.0
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 1.6e+01
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.75 1769508900000
vllm:num_requests_waiting_by_reason{reason="capacity"} 9
"#;
        let report = server_metrics(text, Some("meta-llama/Llama-3.1-8B-Instruct"));
        assert_eq!((report.waiting, report.running, report.cache_use), (Some(7.0), Some(16.0), Some(0.75)));
        assert_eq!(server_metrics(text, None).waiting, Some(107.0));
    }

    #[test]
    fn a_sum_beyond_all_numbers_stays_a_number() {
        let report = server_metrics(b"tgi_queue_size 1.7e308\ntgi_queue_size 1.7e308\n", None);
        assert_eq!(report.waiting, Some(f64::MAX));
    }

    #[test]
    fn other_servers_are_read_too() {
        let sglang = server_metrics(b"sglang:num_queue_reqs{m=\"x\"} 2\nsglang:token_usage 0.5\n", None);
        assert_eq!((sglang.waiting, sglang.cache_use), (Some(2.0), Some(0.5)));
        let triton = server_metrics(
            b"nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\",version=\"1\"} 5\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"} 0.1\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 4077\n",
            None,
        );
        assert_eq!((triton.waiting, triton.cache_use), (Some(5.0), Some(0.1)));
        assert_eq!(
            server_metrics(b"tgi_queue_size NaN\ntgi_queue_size{ 1\ntgi_queue_size -1", None),
            LoadReport::default()
        );
    }
}
