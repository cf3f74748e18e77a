//! Compressed pixels, packed here by the plainest encoders that the standards allow.

use super::super::tags::*;
use super::writer::{NX, NY, Value};
use super::*;

const RLE: &str = "1.2.840.10008.1.2.5";
const JPEG_LOSSLESS: &str = "1.2.840.10008.1.2.4.70";

fn compressed(syntax: &'static str, frames: Vec<Vec<u8>>) -> CtSlice {
    let mut slice = CtSlice::at(0.0, 0).with(PIXEL_DATA, Value::Fragments(frames));
    slice.dcm.syntax = syntax;
    slice
}

/// Bytes of each significance, the highest first; runs where there are some.
fn rle(words: &[u16]) -> Vec<u8> {
    let mut parts = Vec::new();
    for shift in [8, 0] {
        let bytes: Vec<u8> = words.iter().map(|w| (w >> shift) as u8).collect();
        let mut packed = Vec::new();
        for group in bytes.chunk_by(|a, b| a == b) {
            match group.len() {
                1 => packed.extend([0, group[0]]),
                n => packed.extend([(1 - n as i32) as u8, group[0]]),
            }
        }
        packed.push(0x80);
        parts.push(packed);
    }
    let mut out = vec![0; 64];
    for (i, word) in [2, 64, 64 + parts[0].len() as u32].into_iter().enumerate() {
        out[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    out.extend(parts.concat());
    out
}

/// Process 14, predictor 1, all difference categories with codes of 5 bits.
fn jpeg(words: &[u16], columns: usize) -> Vec<u8> {
    let (mut bits, mut held) = (0u32, 0);
    let mut data = Vec::new();
    let mut put = |value: u32, count: u32, data: &mut Vec<u8>| {
        for i in (0..count).rev() {
            (bits, held) = (bits << 1 | value >> i & 1, held + 1);
            if held == 8 {
                data.push(bits as u8);
                if bits as u8 == 0xFF {
                    data.push(0);
                }
                (bits, held) = (0, 0);
            }
        }
    };
    for (i, &word) in words.iter().enumerate() {
        let predicted = if i == 0 { 1 << 15 } else { words[if i % columns == 0 { i - columns } else { i - 1 }] };
        let difference = word.wrapping_sub(predicted) as i16 as i32;
        let category = if difference == -32768 { 16 } else { 32 - difference.unsigned_abs().leading_zeros() };
        put(category, 5, &mut data);
        if category < 16 {
            let value = if difference < 0 { difference + (1 << category) - 1 } else { difference };
            put(value as u32, category, &mut data);
        }
    }
    put(0x7F, 7, &mut data);
    let rows = words.len() / columns;
    let mut out = vec![0xFF, 0xD8, 0xFF, 0xC3, 0, 11, 16, 0, rows as u8, 0, columns as u8, 1, 1, 0x11, 0];
    out.extend([0xFF, 0xC4, 0, 19 + 17, 0]);
    out.extend((1..=16).map(|length| if length == 5 { 17 } else { 0 }));
    out.extend(0..17);
    out.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 0, 0]);
    out.extend(data);
    out.extend([0xFF, 0xD9]);
    out
}

#[test]
fn rle_and_jpeg_lossless_give_the_stored_numbers() {
    let words: Vec<u16> = [0, 1, 1, 1, 63536, 65535, 32768, 32767, 300, 300, 5, 4].to_vec();
    let want = read_one(&CtSlice::at(0.0, 0).words(&words)).unwrap().item.data;
    for (syntax, packed) in [(RLE, rle(&words)), (JPEG_LOSSLESS, jpeg(&words, NX))] {
        let got = read_one(&compressed(syntax, vec![packed])).unwrap_or_else(|e| panic!("{syntax}: {e}"));
        assert_eq!(got.item.data, want, "{syntax}");
    }
    // A frame in several fragments.
    let packed = rle(&words);
    let (a, b) = packed.split_at(70);
    assert_eq!(read_one(&compressed(RLE, vec![a.to_vec(), b.to_vec()])).unwrap().item.data, want);
}

#[test]
fn damaged_compressed_pixels_are_refused() {
    let words: Vec<u16> = (0..(NX * NY) as u16).map(|i| i * 777).collect();
    let (run, lossless) = (rle(&words), jpeg(&words, NX));
    for (syntax, packed, word) in [
        (RLE, run[..run.len() - 8].to_vec(), "RLE that stops after"),
        (RLE, run[..20].to_vec(), "RLE parts outside"),
        (RLE, vec![9; 64], "RLE of"),
        (JPEG_LOSSLESS, jpeg(&words, 2), "a JPEG of 2x6 pixels in an image of 4x3"),
        (JPEG_LOSSLESS, lossless[..30].to_vec(), "a JPEG that can't be"),
        (JPEG_LOSSLESS, vec![1, 2, 3], "a JPEG that can't be read"),
        ("1.2.840.10008.1.2.4.90", vec![0; 60], "no JPEG 2000 stream"),
        ("1.2.840.10008.1.2.4.80", vec![0; 60], "JPEG-LS"),
        ("1.2.840.10008.1.2.4.201", vec![0; 60], "high-throughput"),
        ("9.9", vec![0; 60], "unknown transfer syntax"),
    ] {
        assert_refused(read_one(&compressed(syntax, vec![packed])), &[word]);
    }
    // 4 GiB of pixels promised by a file of some hundred bytes.
    let huge = compressed(RLE, vec![run]).with(ROWS, 65535).with(COLUMNS, 65535);
    assert_refused(read_one(&huge), &["compressed pixels a frame in a file of"]);
    assert_refused(read_one(&compressed(RLE, vec![])), &["pixels for 1 frame"]);
}
