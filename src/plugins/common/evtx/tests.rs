use super::*;

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Writes the content of a chunk.
struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn byte(&mut self, b: u8) {
        self.out.push(b);
    }

    fn short(&mut self, n: usize) {
        self.out.extend((n as u16).to_le_bytes());
    }

    fn long(&mut self, n: usize) {
        self.out.extend((n as u32).to_le_bytes());
    }

    fn name(&mut self, name: &str) {
        let here = self.out.len() + 4;
        self.long(here);
        self.long(0);
        self.short(0);
        self.short(name.len());
        self.out.extend(wide(name));
        self.short(0);
    }

    fn open(&mut self, template: bool, name: &str, attributes: &[(&str, Option<usize>)]) {
        self.byte(if attributes.is_empty() { 0x01 } else { 0x41 });
        if template {
            self.short(0xffff);
        }
        self.long(0);
        self.name(name);
        if !attributes.is_empty() {
            self.long(0);
        }
        for (name, value) in attributes {
            self.byte(0x06);
            self.name(name);
            match value {
                Some(number) => self.asked(*number),
                None => self.text(name),
            }
        }
        self.byte(0x02);
    }

    fn close(&mut self) {
        self.byte(0x04);
    }

    fn text(&mut self, text: &str) {
        self.byte(0x05);
        self.byte(1);
        self.short(text.len());
        self.out.extend(wide(text));
    }

    fn asked(&mut self, number: usize) {
        self.byte(0x0d);
        self.short(number);
        self.byte(1);
    }

    /// A template, written here or used again, and its values.
    fn instance(
        &mut self,
        known: &mut Option<usize>,
        body: impl FnOnce(&mut Writer),
        values: &[(u8, Vec<u8>)],
    ) {
        self.byte(0x0c);
        self.byte(1);
        self.long(77);
        match *known {
            Some(place) => self.long(place),
            None => {
                *known = Some(self.out.len() + 4);
                self.long(self.out.len() + 4);
                self.out.extend([0; 24]);
                let start = self.out.len();
                self.byte(0x0f);
                self.out.extend([1, 1, 0]);
                body(self);
                self.byte(0);
                let length = (self.out.len() - start) as u32;
                self.out[start - 4..start].copy_from_slice(&length.to_le_bytes());
            }
        }
        self.long(values.len());
        for (kind, value) in values {
            self.short(value.len());
            self.short((*kind).into());
        }
        for (_, value) in values {
            self.out.extend(value);
        }
    }

    fn record(&mut self, number: u64, content: impl FnOnce(&mut Writer)) {
        let start = self.out.len();
        self.out.extend(b"**\0\0\0\0\0\0");
        self.out.extend(number.to_le_bytes());
        self.out.extend([0; 8]);
        self.out.extend([0x0f, 1, 1, 0]);
        content(self);
        self.byte(0);
        self.long(0);
        let length = (self.out.len() - start) as u32;
        self.out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }
}

/// A chunk with two events of one template and one without.
fn chunk(first: u64) -> Vec<u8> {
    let mut w = Writer { out: vec![0; CHUNK_HEAD] };
    w.out[..8].copy_from_slice(b"ElfChnk\0");
    for (at, n) in [(8, first), (16, first + 2), (24, first), (32, first + 2)] {
        w.out[at..at + 8].copy_from_slice(&n.to_le_bytes());
    }
    let mut known = None;
    for number in [first, first + 1] {
        let body = |w: &mut Writer| {
            w.open(true, "Event", &[("xmlns", None)]);
            w.open(true, "System", &[]);
            w.open(true, "Provider", &[("Name", None), ("Guid", Some(0))]);
            w.close();
            w.open(true, "EventID", &[("Qualifiers", Some(1))]);
            w.asked(2);
            w.close();
            w.close();
            w.asked(3);
            w.close();
        };
        // The data of an event is a tree by itself; its template is not shared here.
        let mut data = Writer { out: Vec::new() };
        data.open(false, "EventData", &[]);
        for name in ["A", "B"] {
            data.open(false, "Data", &[("Name", None)]);
            data.text(name);
            data.close();
        }
        data.close();
        data.byte(0);
        let values =
            [(0, vec![]), (0, vec![]), (6, (number as u16).to_le_bytes().to_vec()), (0x21, vec![])];
        w.record(number, |w| w.instance(&mut known, body, &values));
    }
    w.record(first + 2, |w| {
        w.open(false, "Event", &[]);
        w.open(false, "Data", &[]);
        w.text("one");
        w.close();
        w.open(false, "Data", &[]);
        w.text("two");
        w.close();
        w.close();
    });
    w.out.resize(CHUNK, 0);
    w.out
}

fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0u8; 4096];
    out[..8].copy_from_slice(b"ElfFile\0");
    out[36..42].copy_from_slice(&[1, 0, 3, 0, 0, 16]);
    out.extend(chunks.concat());
    out
}

async fn query(text: &str, data: Vec<u8>) -> String {
    let mut registry = Registry::standard();
    super::super::register(&mut registry);
    let env = Arc::new(crate::env::real::env());
    let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
    scope.set("Data", data);
    Value::from(vql::run(text, &scope).await.unwrap()).to_json()
}

#[tokio::test]
async fn events_of_a_log() {
    let unused = vec![0; CHUNK];
    let rows = query(
        "SELECT * FROM parse_evtx(filename=Data, accessor='data')",
        file(&[chunk(1), unused, chunk(4)]),
    )
    .await;
    let of = |n: u64| {
        format!(
            r#"{{"System":{{"Provider":{{"Name":"Name"}},"EventID":{{"Value":{n}}}}},"Message":""}}"#
        )
    };
    let plain = r#"{"Data":["one","two"],"Message":""}"#;
    let expected = [of(1), of(2), plain.into(), of(4), of(5), plain.into()].join(",");
    assert_eq!(rows, format!("[{expected}]"));
    for bad in [b"ElfFile\0".to_vec(), b"no".to_vec(), vec![]] {
        assert_eq!(
            query("SELECT * FROM parse_evtx(filename=Data, accessor='data')", bad).await,
            "[]"
        );
    }
}

#[test]
fn only_what_is_new() {
    let numbers = |known| events(&chunk(5), known).iter().map(|e| e.0).collect::<Vec<_>>();
    assert_eq!(numbers(0), [5, 6, 7]);
    assert_eq!(numbers(6), [7]);
    assert!(events(&chunk(5), 6)[0].1.is_some());
}

#[test]
fn chunks_that_lie() {
    let good = chunk(1);
    let end = good.iter().rposition(|b| *b != 0).unwrap() + 8;
    for at in 0..end {
        for bits in [0xff, 0x01, 0x80, 0x0c] {
            let mut bad = good.clone();
            bad[at] ^= bits;
            events(&bad, 0);
        }
    }
}
