//! A bencode reader for input from anywhere (torrents, answers of trackers). It walks the bytes and builds nothing, so hostile input cannot make it
//! take memory; nesting is bounded, lengths are checked against what is there, and every error is a plain sentence.

/// Deepest nesting that is walked. A torrent's own data are four deep.
const MAX_DEPTH: u32 = 16;

/// What is wrong, in a plain sentence.
pub type Why = &'static str;

/// A position in bencoded bytes.
#[derive(Clone)]
pub struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Stands at the first byte.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// Whether nothing follows.
    pub fn at_end(&self) -> bool {
        self.at == self.data.len()
    }

    fn peek(&self) -> Result<u8, Why> {
        self.data.get(self.at).copied().ok_or("it ends too early")
    }

    fn expect(&mut self, byte: u8, why: Why) -> Result<(), Why> {
        if self.peek()? != byte {
            return Err(why);
        }
        self.at += 1;
        Ok(())
    }

    /// Digits up to `end`, without sign or leading zeros.
    fn number(&mut self, end: u8) -> Result<u64, Why> {
        let start = self.at;
        let mut n = 0u64;
        loop {
            match self.peek()? {
                d @ b'0'..=b'9' => {
                    n = n.checked_mul(10).and_then(|n| n.checked_add(u64::from(d - b'0'))).ok_or("a number is too large")?;
                }
                b if b == end => break,
                _ => return Err("a number has a character that is no digit"),
            }
            self.at += 1;
        }
        let digits = self.data.get(start..self.at).unwrap_or_default();
        if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
            return Err("a number is not written plainly");
        }
        self.at += 1;
        Ok(n)
    }

    /// A whole number that is not negative.
    pub fn uint(&mut self) -> Result<u64, Why> {
        self.expect(b'i', "a number is missing")?;
        self.number(b'e')
    }

    /// A text as bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Why> {
        if !self.peek()?.is_ascii_digit() {
            return Err("a text is missing");
        }
        let len = usize::try_from(self.number(b':')?).map_err(|_| "a text is longer than the file")?;
        let end = self.at.checked_add(len).ok_or("a text is longer than the file")?;
        let bytes = self.data.get(self.at..end).ok_or("a text is longer than the file")?;
        self.at = end;
        Ok(bytes)
    }

    /// A text, which must be UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Why> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a name is not UTF-8")
    }

    /// Calls `item` at each element of a list; it must walk over it.
    pub fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Why>) -> Result<(), Why> {
        self.expect(b'l', "a list is missing")?;
        while self.peek()? != b'e' {
            item(self)?;
        }
        self.at += 1;
        Ok(())
    }

    /// Calls `entry` with each key of a dictionary; it must walk over the value.
    pub fn dict(&mut self, mut entry: impl FnMut(&'a [u8], &mut Self) -> Result<(), Why>) -> Result<(), Why> {
        self.expect(b'd', "a dictionary is missing")?;
        while self.peek()? != b'e' {
            let key = self.bytes()?;
            entry(key, self)?;
        }
        self.at += 1;
        Ok(())
    }

    /// Walks over any value and returns its bytes.
    pub fn skip(&mut self) -> Result<&'a [u8], Why> {
        let start = self.at;
        self.skip_at(0)?;
        Ok(self.data.get(start..self.at).unwrap_or_default())
    }

    fn skip_at(&mut self, depth: u32) -> Result<(), Why> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply");
        }
        match self.peek()? {
            b'i' => {
                self.at += 1;
                if self.peek()? == b'-' {
                    self.at += 1;
                }
                self.number(b'e').map(drop)
            }
            b'l' => self.list(|c| c.skip_at(depth + 1)),
            b'd' => self.dict(|_, c| c.skip_at(depth + 1)),
            _ => self.bytes().map(drop),
        }
    }
}

/// Writes a text.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// Writes a number.
pub fn put_uint(out: &mut Vec<u8>, n: u64) {
    out.push(b'i');
    out.extend_from_slice(n.to_string().as_bytes());
    out.push(b'e');
}
