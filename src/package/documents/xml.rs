//! XML as package documents use it: elements and text, read into a small tree with limits.
//!
//! A tree and not a stream of events, because the documents are small and their readers become plain look-ups. What
//! makes XML dangerous is refused: document types (and with them entities of one's own), deep nesting, large files.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Bytes. The largest document seen in a real package is a few hundred KiB.
pub const MAX_BYTES: u64 = 16 << 20;
const MAX_DEPTH: usize = 32;
/// Bounds the tree's memory: an element takes more memory than its shortest text.
const MAX_ELEMENTS: usize = 200_000;

/// An element with its name without prefix.
#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    /// The text directly inside, trimmed.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name)
    }
    /// The text of the first child of that name, when there is one and it is not empty.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.as_str()).filter(|t| !t.is_empty())
    }
    /// The children of that name below the first child `list`.
    pub fn items<'a>(&'a self, list: &str, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.child(list).into_iter().flat_map(|l| &l.children).filter(move |c| c.name == name)
    }
}

/// A document: its root element and the root's namespace.
#[derive(Debug)]
pub struct Document {
    pub root: Element,
    pub namespace: String,
}

/// Reads a document. The error is a sentence that goes behind the file's name.
pub fn read(data: &[u8]) -> Result<Document, String> {
    if data.len() as u64 > MAX_BYTES {
        return Err("is larger than 16 MiB".into());
    }
    let text = std::str::from_utf8(data).map_err(|_| "is not UTF-8 text")?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut tree = Tree::default();
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|e| format!("is not well-formed XML at byte {at}: {e}"))?;
        if !tree.take(event).map_err(|e| format!("{e} at byte {at}"))? {
            break;
        }
    }
    match tree.root {
        Some(root) if tree.open.is_empty() => Ok(Document { root, namespace: tree.namespace }),
        _ => Err("ends too early".into()),
    }
}

#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Option<Element>,
    namespace: String,
    elements: usize,
}

impl Tree {
    /// Returns false at the end of the document.
    fn take(&mut self, event: Event<'_>) -> Result<bool, String> {
        match event {
            Event::Start(start) => self.start(&start)?,
            Event::End(_) => {
                let Some(mut done) = self.open.pop() else { return Err("closes what is not open".into()) };
                done.text = done.text.trim().to_owned();
                match self.open.last_mut() {
                    Some(parent) => parent.children.push(done),
                    None => self.root = Some(done),
                }
            }
            Event::Text(text) => self.text(&text.xml10_content().map_err(|e| e.to_string())?)?,
            Event::CData(text) => self.text(&text.xml10_content().map_err(|e| e.to_string())?)?,
            Event::GeneralRef(name) => {
                if let Some(c) = name.resolve_char_ref().map_err(|e| e.to_string())? {
                    self.text(c.encode_utf8(&mut [0; 4]))?;
                } else {
                    let name = name.decode().map_err(|e| e.to_string())?;
                    let value = quick_xml::escape::resolve_xml_entity(&name).ok_or("uses an unknown entity")?;
                    self.text(value)?;
                }
            }
            Event::DocType(_) => return Err("has a document type, which package documents do not have".into()),
            Event::Eof => return Ok(false),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
        Ok(true)
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(format!("has more than {MAX_ELEMENTS} elements"));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} deep"));
        }
        if self.open.is_empty() {
            if self.root.is_some() {
                return Err("has a second root element".into());
            }
            self.namespace = namespace(start);
        }
        let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
        self.open.push(Element { name, ..Element::default() });
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err("has text outside of its root element".into()),
        }
        Ok(())
    }
}

/// The namespace that the root element declares for itself; empty when there is none.
fn namespace(root: &BytesStart<'_>) -> String {
    let declared = match root.name().prefix() {
        Some(prefix) => [b"xmlns:", prefix.as_ref()].concat(),
        None => b"xmlns".to_vec(),
    };
    let found = root.attributes().flatten().find(|a| a.key.as_ref() == declared);
    found.map(|a| String::from_utf8_lossy(&a.value).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_prefixes_entities_and_bom() {
        let d = read("\u{feff}<?xml version=\"1.0\"?><!-- c --><p:A xmlns:p='urn:x'><p:B> a &amp; <![CDATA[<b>]]>&#x41; </p:B><C/></p:A>\n".as_bytes())
            .unwrap();
        assert_eq!((d.root.name.as_str(), d.namespace.as_str()), ("A", "urn:x"));
        assert_eq!(d.root.text_of("B"), Some("a & <b>A"));
        assert!(d.root.child("C").is_some() && d.root.text_of("C").is_none());
    }

    #[test]
    fn what_is_dangerous_is_refused() {
        let bomb = "<!DOCTYPE a [<!ENTITY x \"xxxxxxxx\"><!ENTITY y \"&x;&x;\">]><a>&y;</a>";
        let deep = format!("{}{}", "<a>".repeat(33), "</a>".repeat(33));
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        for bad in ["", "text", "<a>", "<a></b>", "</a>", "<a/><b/>", "<a/>text", "<a>&x;</a>", "<a>&", bomb, &deep, &many] {
            assert!(read(bad.as_bytes()).is_err(), "{:?} was accepted", &bad[..bad.len().min(40)]);
        }
        assert!(read(&[b'<', b'a', b'>', 0xff, b'<', b'/', b'a', b'>']).is_err());
        assert!(read(&vec![b' '; MAX_BYTES as usize + 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(parts in proptest::collection::vec(prop_oneof![
            Just("<a>".to_owned()), Just("</a>".to_owned()), Just("<a x='1'/>".to_owned()), Just("&amp;".to_owned()), Just("<![CDATA[".to_owned()),
            Just("]]>".to_owned()), Just("<!--".to_owned()), Just("<?".to_owned()), Just("&#0;".to_owned()), ".{0,8}"], 0..30)) {
            let _ = read(parts.concat().as_bytes());
        }
    }
}
