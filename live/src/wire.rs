//! How is as much of HTTP/1.1 spoken as backends and load generator need?

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The head of a request or a response, and nothing of its body.
#[derive(Debug)]
pub(crate) struct Head {
    text: String,
}

/// A longer head is not one of ours.
const HEAD_LIMIT: usize = 16 * 1024;

impl Head {
    /// Reads up to the empty line; `None` when the stream ends before its first byte. Bytes after the head
    /// stay in the buffer.
    pub(crate) async fn read(
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Self>> {
        loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
                buffer.drain(..end + 4);
                return Ok(Some(Self { text }));
            }
            if buffer.len() > HEAD_LIMIT {
                return Err(io::Error::other("head is longer than 16 KiB"));
            }
            if stream.read_buf(buffer).await? == 0 {
                return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        self.text.lines().next()?.split(' ').nth(1)?.parse().ok()
    }

    /// Length of the body; `None` where only the end of the stream tells.
    pub(crate) fn length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_is_read_and_the_body_stays_in_the_buffer() {
        let mut stream: &[u8] =
            b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 2\r\nX-Endpoint: us-a\r\n\r\nok";
        let mut buffer = Vec::new();
        let head = Head::read(&mut stream, &mut buffer).await.unwrap().unwrap();
        assert_eq!(head.status(), Some(504));
        assert_eq!(head.header("x-endpoint"), Some("us-a"));
        assert_eq!(head.length(), Some(2));
        assert_eq!(buffer, b"ok");
        buffer.clear();
        assert!(Head::read(&mut stream, &mut buffer).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn half_a_head_is_an_error() {
        let mut stream: &[u8] = b"HTTP/1.1 200 OK\r\n";
        assert!(Head::read(&mut stream, &mut Vec::new()).await.is_err());
    }
}
