use std::io::Write;
use std::process::Command;

use rawzip::ZipArchiveWriter;

use super::*;

/// What a checkpoint of these tests can hold.
#[derive(Clone)]
pub enum Item {
    Int(u8),
    Dict(Vec<(String, Item)>),
    /// Contiguous f32.
    Tensor(Vec<usize>, Vec<f32>),
    /// Any view: storage class, its bytes, offset, shape, strides.
    View(&'static str, Vec<u8>, usize, Vec<usize>, Vec<usize>),
}

impl Item {
    pub fn tensors(tensors: &[NamedTensor]) -> Self {
        Item::Dict(tensors.iter().map(|t| (t.name.clone(), Item::Tensor(t.shape.clone(), t.values.clone()))).collect())
    }
}

/// The bytes that `torch.save` writes: protocol 2, an entry for each storage, everything stored.
pub fn checkpoint(item: Item) -> Vec<u8> {
    let (mut pickle, mut storages) = (b"\x80\x02".to_vec(), vec![]);
    put(&item, &mut pickle, &mut storages);
    pickle.push(b'.');
    archive(&pickle, &storages)
}

fn archive(pickle: &[u8], storages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut zip = ZipArchiveWriter::new(&mut bytes);
    let mut entry = |name: &str, content: &[u8]| {
        let path = format!("model/{name}");
        let (mut entry, config) = zip.new_file(&path).compression_method(CompressionMethod::Store).start().unwrap();
        let mut writer = config.wrap(&mut entry);
        writer.write_all(content).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        entry.finish(descriptor).unwrap();
    };
    entry("data.pkl", pickle);
    entry("byteorder", b"little");
    storages.iter().enumerate().for_each(|(i, bytes)| entry(&format!("data/{i}"), bytes));
    entry("version", b"3\n");
    zip.finish().unwrap();
    bytes
}

fn put(item: &Item, out: &mut Vec<u8>, storages: &mut Vec<Vec<u8>>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let number = |n: usize, out: &mut Vec<u8>| {
        out.push(b'J');
        out.extend((n as i32).to_le_bytes());
    };
    match item {
        Item::Int(n) => out.extend([b'K', *n]),
        Item::Dict(items) => {
            out.extend(b"ccollections\nOrderedDict\n)R(");
            for (key, value) in items {
                text(key, out);
                put(value, out, storages);
            }
            out.push(b'u');
        }
        Item::Tensor(shape, values) => {
            let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            put(&Item::View("FloatStorage", bytes, 0, shape.clone(), strides), out, storages);
        }
        Item::View(class, bytes, offset, shape, strides) => {
            out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text("storage", out);
            out.extend(format!("ctorch\n{class}\n").bytes());
            text(&storages.len().to_string(), out);
            text("cpu", out);
            number(bytes.len() / 4, out);
            out.extend(b"tQ");
            number(*offset, out);
            for list in [shape, strides] {
                out.push(b'(');
                list.iter().for_each(|n| number(*n, out));
                out.push(b't');
            }
            out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
            storages.push(bytes.clone());
        }
    }
}

fn dict(items: &[(&str, Item)]) -> Item {
    Item::Dict(items.iter().map(|(key, item)| ((*key).to_owned(), item.clone())).collect())
}

fn floats_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn views_of_storages_are_read_in_c_order() {
    let storage = floats_of(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let view =
        |offset, shape: &[usize], strides: &[usize]| Item::View("FloatStorage", storage.clone(), offset, shape.to_vec(), strides.to_vec());
    let file = checkpoint(dict(&[
        ("plain", view(1, &[2, 3], &[3, 1])),
        ("transposed", view(0, &[3, 2], &[1, 3])),
        ("scalar", view(6, &[], &[])),
        ("none", view(0, &[0, 3], &[3, 1])),
        ("half", Item::View("HalfStorage", vec![0, 0x3C], 0, vec![1], vec![1])),
        ("counter", Item::View("LongStorage", vec![0; 8], 0, vec![], vec![])),
    ]));
    let found = read(&file, None).unwrap();
    let values: Vec<(&str, &[f32])> = found.tensors.iter().map(|t| (t.name.as_str(), &t.values[..])).collect();
    let expected: [(&str, &[f32]); 5] = [
        ("plain", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("transposed", &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("scalar", &[6.0]),
        ("none", &[]),
        ("half", &[1.0]),
    ];
    assert_eq!(values, expected);
}

#[test]
fn the_dictionary_with_weights_is_found_or_named() {
    let tensor = |n: usize| Item::Tensor(vec![1], vec![n as f32]);
    let of = |n: usize| Item::Dict((0..n).map(|i| (format!("t{i}"), tensor(i))).collect());
    let key = |item: Item, key: Option<&str>| read(&checkpoint(item), key).map(|found| found.key);
    assert_eq!(key(of(2), None).unwrap(), "");
    assert_eq!(key(dict(&[("teacher", of(3)), ("student", of(2))]), None).unwrap(), "student", "a telling name");
    assert_eq!(key(dict(&[("a", of(2)), ("b", dict(&[("c", of(3))]))]), None).unwrap(), "b.c", "the largest");
    assert_eq!(key(dict(&[("a", of(2)), ("b", of(3))]), Some("a")).unwrap(), "a");
    let error = key(dict(&[("a", of(2))]), Some("b")).unwrap_err().to_string();
    assert!(error.contains("\"a\" (2 tensors)"), "{error}");
    assert!(key(dict(&[("epoch", Item::Int(3))]), None).unwrap_err().to_string().contains("no dictionary with tensors"));
}

#[test]
fn lies_about_sizes_are_refused() {
    let view = |offset, shape: &[usize], strides: &[usize]| {
        let view = Item::View("FloatStorage", floats_of(&[0.0; 4]), offset, shape.to_vec(), strides.to_vec());
        read(&checkpoint(dict(&[("t", view)])), None)
    };
    let huge = i32::MAX as usize;
    for (offset, shape, strides) in [
        (0, &[5][..], &[1][..]),
        (1, &[4], &[1]),
        (0, &[2, 2], &[3, 1]),
        (huge, &[1], &[1]),
        (0, &[huge, huge, huge, huge], &[0, 0, 0, 0]),
        (0, &[huge, huge], &[huge, huge]),
    ] {
        let error = view(offset, shape, strides).unwrap_err().to_string();
        assert!(error.contains("beyond its 4 stored numbers") || error.contains("numbers in a file of"), "{error}");
    }
    // One storage of 1,000 numbers, under many names. (Its own test file would hold each copy; here the copies share entry 0.)
    let once = checkpoint(dict(&[("t", Item::Tensor(vec![1000], vec![0.0; 1000]))]));
    let again = |n: usize| {
        let mut pickle = b"\x80\x02}(X\x01\x00\x00\x00t".to_vec();
        let mut tensor = vec![];
        put(&Item::Tensor(vec![1000], vec![0.0; 1000]), &mut tensor, &mut vec![]);
        pickle.extend(&tensor);
        pickle.extend(b"q\x00");
        for i in 0..n {
            pickle.extend([b'X', 2, 0, 0, 0, b'a' + (i / 26) as u8, b'a' + (i % 26) as u8, b'h', 0]);
        }
        pickle.extend(b"u.");
        archive(&pickle, &[vec![0; 4000]])
    };
    assert!(read(&once, None).is_ok() && read(&again(3), None).is_ok());
    assert!(read(&again(100), None).unwrap_err().to_string().contains("numbers in a file of"));
    assert!(view(0, &[2], &[1, 1]).unwrap_err().to_string().contains("malformed"));
}

/// A pickle that says `said` once, as value 0, then a dictionary of `n` items, each `item`.
fn repeated(said: &[u8], n: usize, item: &[u8]) -> Vec<u8> {
    [b"\x80\x02", said, b"q\x000}(", &item.repeat(n), b"u."].concat()
}

/// `text` as a pickle says it.
fn said(text: &[u8]) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text].concat()
}

/// A tensor on storage "0", described by `shape` and `strides` as a pickle says them.
fn tensor_said(shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let [start, end] =
        [b"ctorch._utils\n_rebuild_tensor_v2\n((X\x01\x00\x00\x00sctorch\nFloatStorage\nX\x01\x00\x00\x000tQK\x00".as_slice(), b"tR"];
    [start, shape, strides, end].concat()
}

#[test]
fn entries_that_share_a_place_are_refused() {
    let weights = dict(&[("w", Item::Tensor(vec![1 << 14], vec![1.0; 1 << 14]))]);
    let mut file = checkpoint(weights);
    assert!(read(&file, None).is_ok());
    // The storage's record in the directory, three more times.
    let find = |what: &[u8]| file.windows(what.len()).rposition(|bytes| bytes == what).unwrap();
    let (record, next, end) = (find(b"model/data/0") - 46, find(b"model/version") - 46, find(b"PK\x05\x06"));
    let again = file[record..next].repeat(3);
    // The end of the directory counts its records, twice, and its bytes.
    for (at, bytes, more) in [(8, 2, 3), (10, 2, 3), (12, 4, again.len())] {
        let field = &mut file[end + at..end + at + bytes];
        let before = field.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
        field.copy_from_slice(&(before + more).to_le_bytes()[..bytes]);
    }
    file.splice(next..next, again);
    let error = read(&file, None).unwrap_err().to_string();
    assert!(error.contains("entries have more than its"), "{error}");
}

#[test]
fn what_is_said_once_and_referred_to_often_takes_no_memory_each_time() {
    let error = |pickle: &[u8]| read(&archive(pickle, &[vec![0; 4]]), None).unwrap_err().to_string();
    // A tensor of many axes under many names.
    let axes = [b"(".as_slice(), &b"K\x01".repeat(100_000), b"t"].concat();
    let item = [&said(b"w")[..], b"h\x00"].concat();
    assert!(error(&repeated(&tensor_said(&axes, &axes), 10_000, &item)).contains("more than 8 axes"));
    // An empty tensor under a long name, and under one that is said again and again.
    let empty = tensor_said(b"K\x00\x85", b"K\x01\x85");
    let named = |length: usize, n: usize| repeated(&said(&vec![b'w'; length]), n, &[b"h\x00", &empty[..]].concat());
    assert!(error(&named(1025, 1)).contains("a key of 1025 bytes"));
    assert!(read(&archive(&named(1024, 1), &[vec![0; 4]]), None).is_ok());
    let again =
        [b"\x80\x02".as_slice(), &said(&[b'w'; 1024]), b"q\x000", &empty, b"q\x010}(", &b"h\x00h\x01".repeat(100_000), b"u."].concat();
    assert!(error(&again).contains("numbers in a file of"));
    // Many small dictionaries below a long key.
    let small = [b"}", &said(b"w")[..], &empty, b"s"].concat();
    let below = |length: usize, n: usize| {
        let item = |i: usize| [&said(format!("{i}").as_bytes())[..], &small].concat();
        let items: Vec<u8> = (0..n).flat_map(item).collect();
        [b"\x80\x02}", &said(&vec![b'k'; length])[..], b"}(", &items, b"us."].concat()
    };
    assert!(error(&below(1 << 20, 1000)).contains("a key of 1048576 bytes"));
    let listed = read(&archive(&below(3, 1000), &[vec![0; 4]]), Some("other")).unwrap_err().to_string();
    assert!(listed.contains("\"kkk.9\" (1 tensors), 990 more"), "{listed}");
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let whole = checkpoint(dict(&[("state_dict", dict(&[("w", Item::Tensor(vec![2], vec![1.0, 2.0]))]))]));
    for end in 0..whole.len() {
        assert!(read(&whole[..end], None).is_err(), "cut after {end} bytes");
    }
    for i in 0..whole.len() {
        for flip in [1, 0x80, 0xFF] {
            let mut damaged = whole.clone();
            damaged[i] ^= flip;
            let _ = read(&damaged, None);
        }
    }
    let error = |bytes: &[u8]| read(bytes, None).unwrap_err().to_string();
    let deep = (0..100).fold(dict(&[]), |inner, _| dict(&[("a", inner)]));
    assert!(error(&checkpoint(deep)).contains("nested deeper"));
    // A dictionary within itself, a parameter of itself, and 2^30 ways to the innermost of 31 dictionaries.
    let within_itself = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.";
    let of_itself = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_parameter\n]q\x00Rq\x01h\x00h\x01a0s.";
    let mut ways = b"\x80\x02}q\x00".to_vec();
    for level in 1..=30 {
        ways.extend(*b"}q");
        ways.push(level);
        for name in *b"ab" {
            ways.extend([b'X', 1, 0, 0, 0, name, b'h', level - 1, b's']);
        }
    }
    ways.push(b'.');
    for pickle in [&within_itself[..], of_itself, &ways] {
        assert!(error(&archive(pickle, &[])).contains("no dictionary with tensors"));
    }
}

#[test]
fn pytorch_itself_agrees() {
    let path = std::env::temp_dir().join(format!("panscreen-torch-{}.pt", std::process::id()));
    let script = "import sys, torch\n\
        w = torch.arange(6, dtype=torch.float32).reshape(2, 3)\n\
        model = {'module.w': torch.nn.Parameter(w.t()), 'module.h': w.half()[1], 'module.n': torch.tensor(3)}\n\
        torch.save({'epoch': 7, 'state_dict': model, 'lr': 0.5}, sys.argv[1])";
    let saved = Command::new("python3").args(["-c", script]).arg(&path).output();
    if !saved.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no python3 with torch here");
        return;
    }
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let found = read(&bytes, None).unwrap();
    assert_eq!(found.key, "state_dict");
    let values: Vec<(&str, &[usize], &[f32])> = found.tensors.iter().map(|t| (t.name.as_str(), &t.shape[..], &t.values[..])).collect();
    let expected: [(&str, &[usize], &[f32]); 2] =
        [("module.w", &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]), ("module.h", &[3], &[3.0, 4.0, 5.0])];
    assert_eq!(values, expected);
}
