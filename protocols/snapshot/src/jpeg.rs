//! A picture becomes a JPEG: scaled, in JFIF's colours (BT.601, full range), 4:2:0.

use std::cell::RefCell;

use jpeg_encoder::{ChromaSubsamplingMethod, Encoder, ImageBuffer, JpegColorType, SamplingFactor};

use crate::Failure;
use crate::decode::Picture;

/// Of 100: artefacts that are not seen without looking for them.
const QUALITY: u8 = 80;
/// Pictures of so many rows and more are BT.709 where they do not say what they are, as browsers and ffmpeg take them.
const HIGH_DEFINITION_ROWS: usize = 720;

/// The JPEG of a picture that is not wider than `width`.
pub(crate) fn encode(picture: &Picture, width: Option<usize>) -> Result<Vec<u8>, Failure> {
    let matrix = match picture.colour.matrix {
        1 | 9 | 10 => Matrix::Bt709,
        2 if picture.height >= HIGH_DEFINITION_ROWS => Matrix::Bt709,
        _ => Matrix::Bt601,
    };
    let scaled = width.filter(|width| *width < picture.width).map(|width| scale(picture, width));
    let picture = scaled.as_ref().unwrap_or(picture);
    let mut out = Vec::with_capacity(picture.y.len() / 4);
    let mut encoder = Encoder::new(&mut out, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    // `Image` gives chroma where this looks.
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Nearest);
    let image = Image::new(picture, Colours::new(matrix, picture.colour.full_range));
    encoder.encode_image(image).map_err(|why| Failure::Broken(why.to_string()))?;
    Ok(out)
}

/// Each pixel is the mean of those that it stands for.
fn scale(picture: &Picture, width: usize) -> Picture {
    let height = (picture.height * width / picture.width).max(1);
    let (from, to) = (picture.chroma_size(), (width.div_ceil(2), height.div_ceil(2)));
    Picture {
        width,
        height,
        y: shrink(&picture.y, (picture.width, picture.height), (width, height)),
        u: shrink(&picture.u, from, to),
        v: shrink(&picture.v, from, to),
        colour: picture.colour,
    }
}

fn shrink(plane: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let span = |at: usize, from: usize, to: usize| (at * from / to)..(((at + 1) * from).div_ceil(to)).min(from);
    let mut out = Vec::with_capacity(to.0 * to.1);
    for row in 0..to.1 {
        let rows = span(row, from.1, to.1);
        for column in 0..to.0 {
            let columns = span(column, from.0, to.0);
            let count = (rows.len() * columns.len()).max(1);
            let lines = plane.chunks_exact(from.0).skip(rows.start).take(rows.len());
            let sum: usize = lines
                .flat_map(|line| line.get(columns.clone()).unwrap_or_default())
                .map(|sample| usize::from(*sample))
                .sum();
            out.push(((sum + count / 2) / count) as u8);
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Matrix {
    Bt601,
    Bt709,
}

/// From a picture's samples to JFIF's: what is added to each, in 1/128 of itself, of Cb and of Cr. 16 bits are enough for that, and
/// as many samples at once as a processor's vectors hold.
struct Colours {
    /// Added to all luma.
    offset: i16,
    luma: i16,
    /// What a step of Cb and Cr adds to Y, Cb and Cr.
    cb: [i16; 3],
    cr: [i16; 3],
}

impl Colours {
    fn new(matrix: Matrix, full_range: bool) -> Colours {
        let (black, luma, chroma) = if full_range { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
        // BT.709's differences in those of BT.601 (both as ITU-R has them): Y moves, too.
        let (cb, cr) = match matrix {
            Matrix::Bt601 => ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]),
            Matrix::Bt709 => ([0.101_579, 0.989_854, -0.072_453], [0.196_076, -0.110_653, 0.983_398]),
        };
        let fixed = |value: f64| (value * 128.0).round() as i16;
        let [y_cb, b_cb, r_cb] = cb.map(|part: f64| part * chroma);
        let [y_cr, b_cr, r_cr] = cr.map(|part: f64| part * chroma);
        Colours {
            // Half of a step, so that shifting rounds.
            offset: fixed(0.5 - black * luma),
            luma: fixed(luma - 1.0),
            cb: [fixed(y_cb), fixed(b_cb - 1.0), fixed(r_cb)],
            cr: [fixed(y_cr), fixed(b_cr), fixed(r_cr - 1.0)],
        }
    }

    /// What is added to luma, and JFIF's Cb and Cr.
    fn of_chroma(&self, cb: u8, cr: u8) -> [i16; 3] {
        let (cb, cr) = (i16::from(cb), i16::from(cr));
        let (from_cb, from_cr) = (cb.wrapping_sub(128), cr.wrapping_sub(128));
        let ([y_cb, b_cb, r_cb], [y_cr, b_cr, r_cr]) = (self.cb, self.cr);
        // No sum passes 2^14: wrapping says so to a compiler that would check each.
        let mix = |of_cb: i16, of_cr: i16, offset: i16| {
            of_cb.wrapping_mul(from_cb).wrapping_add(of_cr.wrapping_mul(from_cr)).wrapping_add(offset)
        };
        [mix(y_cb, y_cr, self.offset), sum(cb, mix(b_cb, b_cr, 64)), sum(cr, mix(r_cb, r_cr, 64))]
    }
}

/// A picture as the encoder asks for it: a line of luma and chroma after the other, of which the encoder takes each second sample
/// of each second line of chroma.
struct Image<'a> {
    picture: &'a Picture,
    colours: Colours,
    /// What the line of chroma adds to each sample of its two lines of luma, before it is shifted.
    added: RefCell<Vec<i16>>,
}

impl Image<'_> {
    fn new(picture: &Picture, colours: Colours) -> Image<'_> {
        let added = RefCell::new(vec![0; 2 * picture.chroma_size().0]);
        Image { picture, colours, added }
    }
}

impl ImageBuffer for Image<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    // Sides of pictures have 14 bits (`MAX_SIDE` of the parameter sets).
    fn width(&self) -> u16 {
        u16::try_from(self.picture.width).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        u16::try_from(self.picture.height).unwrap_or(u16::MAX)
    }

    // Lines come in their order; the last one comes again until a block is full.
    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let (row, picture, colours) = (usize::from(y), self.picture, &self.colours);
        let [out_y, out_cb, out_cr, _] = buffers;
        let mut added = self.added.borrow_mut();
        let to = out_cb.len() + picture.width;
        // A sample more where the width is odd: pairs, all whole, are done many at once.
        let (pairs_cb, pairs_cr) = (room(out_cb, added.len()), room(out_cr, added.len()));
        if row.is_multiple_of(2) || row + 1 == picture.height {
            let columns = picture.chroma_size().0;
            let (cbs, crs) = (line(&picture.u, row / 2, columns), line(&picture.v, row / 2, columns));
            let outs = added.chunks_exact_mut(2).zip(pairs_cb.chunks_exact_mut(2)).zip(pairs_cr.chunks_exact_mut(2));
            for ((cb, cr), ((added, pair_cb), pair_cr)) in cbs.iter().zip(crs).zip(outs) {
                let [more, cb, cr] = colours.of_chroma(*cb, *cr);
                added.copy_from_slice(&[more; 2]);
                pair_cb.copy_from_slice(&[cb as u8; 2]);
                pair_cr.copy_from_slice(&[cr as u8; 2]);
            }
        }
        out_cb.truncate(to);
        out_cr.truncate(to);
        let luma = line(&picture.y, row, picture.width).iter().zip(&*added);
        out_y.extend(luma.map(|(sample, more)| {
            let sample = i16::from(*sample);
            sum(sample, sample.wrapping_mul(colours.luma).wrapping_add(*more)) as u8
        }));
    }
}

fn line(plane: &[u8], row: usize, width: usize) -> &[u8] {
    plane.get(row * width..(row + 1) * width).unwrap_or_default()
}

/// A sample and what is added to it in 1/128.
fn sum(sample: i16, more: i16) -> i16 {
    sample.wrapping_add(more >> 7).clamp(0, 255)
}

/// Room for so many more samples at the end of a buffer.
fn room(out: &mut Vec<u8>, more: usize) -> &mut [u8] {
    let from = out.len();
    out.resize(from + more, 0);
    out.get_mut(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use culvert_media::codec::h264::Colour;

    use super::*;

    /// R, G and B of a colour in these samples, by the matrix's own equations (BT.601-7 2.5, BT.709-6 3).
    fn samples(matrix: Matrix, full_range: bool, rgb: [f64; 3]) -> [u8; 3] {
        let (kr, kb) = match matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
        };
        let y = kr * rgb[0] + (1.0 - kr - kb) * rgb[1] + kb * rgb[2];
        let (cb, cr) = ((rgb[2] - y) / (2.0 * (1.0 - kb)), (rgb[0] - y) / (2.0 * (1.0 - kr)));
        let (black, luma, chroma) = if full_range { (0.0, 255.0, 255.0) } else { (16.0, 219.0, 224.0) };
        [black + luma * y, 128.0 + chroma * cb, 128.0 + chroma * cr]
            .map(|sample| sample.round().clamp(0.0, 255.0) as u8)
    }

    #[test]
    fn colours_are_those_of_jfif_whatever_they_were() {
        for rgb in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.4, 0.9], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]] {
            let wanted = samples(Matrix::Bt601, true, rgb);
            for (matrix, full_range) in
                [(Matrix::Bt601, true), (Matrix::Bt601, false), (Matrix::Bt709, true), (Matrix::Bt709, false)]
            {
                let [y, u, v] = samples(matrix, full_range, rgb);
                let picture =
                    Picture { width: 2, height: 2, y: vec![y; 4], u: vec![u], v: vec![v], colour: Colour::default() };
                let image = Image::new(&picture, Colours::new(matrix, full_range));
                let mut buffers = Default::default();
                image.fill_buffers(1, &mut buffers);
                let got = [buffers[0][1], buffers[1][1], buffers[2][1]];
                let off = got.iter().zip(wanted).map(|(a, b)| a.abs_diff(b)).max();
                assert!(off <= Some(2), "{matrix:?} {full_range} {rgb:?}: {got:?}, not {wanted:?}");
            }
        }
    }

    /// As the encoder reads it: a block has 16 lines of luma, the last line stands for those that there are not, and of chroma each
    /// second sample of each second line counts.
    #[test]
    fn each_line_has_its_own_chroma_to_the_last() {
        for (width, height) in [(5_usize, 6_usize), (4, 7), (1, 1), (6, 16)] {
            let plane = |columns: usize, rows: usize, step: usize| -> Vec<u8> {
                (0..columns * rows).map(|at| (100 + step * (at / columns) + at % columns) as u8).collect()
            };
            let (columns, rows) = (width.div_ceil(2), height.div_ceil(2));
            let (y, u, v) = (plane(width, height, 5), plane(columns, rows, 7), plane(columns, rows, 3));
            let picture = Picture { width, height, y, u, v, colour: Colour::default() };
            let image = Image::new(&picture, Colours::new(Matrix::Bt601, true));
            let mut buffers = Default::default();
            (0..16).for_each(|row: usize| image.fill_buffers(row.min(height - 1) as u16, &mut buffers));
            for row in 0..16 {
                let there = row.min(height - 1);
                assert_eq!(line(&buffers[0], row, width), line(&picture.y, there, width), "{width}x{height}: {row}");
                for (buffer, plane) in [(&buffers[1], &picture.u), (&buffers[2], &picture.v)] {
                    let seen: Vec<u8> = line(buffer, row, width).iter().copied().step_by(2).collect();
                    let counts = row % 2 == 0;
                    assert!(!counts || seen == line(plane, there / 2, columns), "{width}x{height}: {row}");
                }
            }
        }
    }

    #[test]
    fn pictures_shrink_to_the_mean_of_what_they_showed() {
        let plane: Vec<u8> = (0..12).map(|i| i * 10).collect();
        assert_eq!(shrink(&plane, (4, 3), (2, 1)), [45, 65]);
        assert_eq!(shrink(&plane, (4, 3), (4, 3)), plane);
        let picture = Picture {
            width: 1000,
            height: 501,
            y: vec![100; 501_000],
            u: vec![128; 500 * 251],
            v: vec![128; 500 * 251],
            colour: Colour::default(),
        };
        for width in [1, 2, 333, 999] {
            let small = scale(&picture, width);
            assert_eq!((small.width, small.height), (width, (501 * width / 1000).max(1)));
            assert_eq!(small.y.len(), small.width * small.height);
            assert!(small.y.iter().all(|sample| *sample == 100));
            let jpeg = encode(&picture, Some(width)).unwrap();
            assert_eq!(jpeg[..2], [0xff, 0xd8]);
        }
    }
}
