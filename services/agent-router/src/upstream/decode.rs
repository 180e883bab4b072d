//! Incremental decoders for streamed answers: they take bytes however these were split, and give whole lines and events.

use bytes::{Buf as _, BytesMut};
use thiserror::Error;

/// The longest line that is taken, in bytes. What it holds fits into the smallest message that may be configured, 1 MiB.
pub const MAX_LINE: usize = (1024 - 64) * 1024;

/// A line that never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a line over {MAX_LINE} bytes")]
pub struct LineTooLong;

/// The mark that some servers put before the first line. It is no part of it.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Splits bytes into lines at LF, CR or CRLF. A byte order mark before the first is passed over.
///
/// What it gives, a refusal included, depends on the bytes alone and never on how they were split.
#[derive(Debug, Default)]
pub struct LineDecoder {
    buffer: BytesMut,
    /// The first bytes have been looked at for a byte order mark.
    begun: bool,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    /// The last line ended with a CR, whose LF may still come.
    after_cr: bool,
}

impl LineDecoder {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    ///
    /// # Errors
    /// The line is too long to be one.
    pub fn next_line(&mut self) -> Result<Option<BytesMut>, LineTooLong> {
        if !self.begun {
            if self.buffer.len() < BOM.len() && BOM.starts_with(&self.buffer) {
                return Ok(None);
            }
            self.pass_over_bom();
        }
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let end = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(end) = end.map(|end| end + self.searched) else {
            self.searched = self.buffer.len();
            return if self.searched > MAX_LINE { Err(LineTooLong) } else { Ok(None) };
        };
        if end > MAX_LINE {
            return Err(LineTooLong);
        }
        self.after_cr = self.buffer[end] == b'\r';
        self.searched = 0;
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        Ok(Some(line))
    }

    /// What is left when no more bytes come: a last line without an end.
    pub fn remainder(&mut self) -> BytesMut {
        self.searched = 0;
        std::mem::take(&mut self.buffer)
    }

    fn pass_over_bom(&mut self) {
        self.begun = true;
        if self.buffer.starts_with(BOM) {
            self.buffer.advance(BOM.len());
        }
    }
}

/// Finds the data of server-sent events, as the HTML standard defines the format. Comments, ids and event names are
/// passed over.
#[derive(Debug, Default)]
pub struct SseDecoder {
    lines: LineDecoder,
    data: Option<Vec<u8>>,
}

impl SseDecoder {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
    }

    /// The data of the next event.
    ///
    /// # Errors
    /// A line or the data of an event is too long.
    pub fn next_event(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        while let Some(line) = self.lines.next_line()? {
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Ok(Some(data));
                }
                continue;
            }
            let Some(value) = line.strip_prefix(b"data") else {
                continue;
            };
            let value = match value {
                [] => value,
                [b':', b' ', rest @ ..] | [b':', rest @ ..] => rest,
                // A field whose name merely begins with "data".
                _ => continue,
            };
            let data = match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data
                }
                none => none.insert(Vec::new()),
            };
            data.extend_from_slice(value);
            if data.len() > MAX_LINE {
                return Err(LineTooLong);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8], split: usize) -> Vec<String> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for chunk in stream.chunks(split) {
            decoder.push(chunk);
            while let Some(event) = decoder.next_event().unwrap() {
                events.push(String::from_utf8(event).unwrap());
            }
        }
        events
    }

    #[test]
    fn any_split_of_a_stream_gives_the_same_events() {
        let stream = "\
            \u{feff}: a comment\r\n\
            data: {\"a\":1}\r\n\r\n\
            event: x\ndata:two\ndata: lines\nid: 7\n\n\
            data: caf\u{e9}\r\r\
            datax: no\n\n\
            data\n\n\
            data: [DONE]\n\n\
            data: never ended";
        let expected = ["{\"a\":1}", "two\nlines", "caf\u{e9}", "", "[DONE]"];
        for split in 1..=stream.len() {
            assert_eq!(events(stream.as_bytes(), split), expected, "split at {split}");
        }
    }

    #[test]
    fn a_last_line_without_an_end_is_left_over() {
        let mut lines = LineDecoder::default();
        lines.push(b"one\ntwo");
        assert_eq!(lines.next_line().unwrap().unwrap(), "one");
        assert_eq!(lines.next_line().unwrap(), None);
        assert_eq!(lines.remainder(), "two");
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_at_the_beginning_alone() {
        let mut lines = LineDecoder::default();
        for byte in "\u{feff}one\n\u{feff}two\n".bytes() {
            lines.push(&[byte]);
        }
        assert_eq!(lines.next_line().unwrap().unwrap(), "one");
        assert_eq!(lines.next_line().unwrap().unwrap(), "\u{feff}two");
        let mut lines = LineDecoder::default();
        lines.push(&BOM[..2]);
        assert_eq!(lines.next_line().unwrap(), None);
        lines.push(b"\n");
        assert_eq!(lines.next_line().unwrap().unwrap(), &BOM[..2]);
    }

    #[test]
    fn a_line_is_as_long_as_it_is_however_its_bytes_came() {
        for split in [1024, usize::MAX] {
            for (length, taken) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
                let line = [vec![b'x'; length], vec![b'\n']].concat();
                let mut lines = LineDecoder::default();
                let mut found = Ok(None);
                for bytes in line.chunks(split.min(line.len())) {
                    lines.push(bytes);
                    found = lines.next_line();
                }
                assert_eq!(matches!(found, Ok(Some(_))), taken, "{length} bytes in pieces of {split}");
            }
        }
    }

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut decoder = SseDecoder::default();
        decoder.push(b"data: ");
        for _ in 0..=MAX_LINE / 1024 {
            decoder.push(&[b'x'; 1024]);
        }
        assert_eq!(decoder.next_event(), Err(LineTooLong));
    }
}
