//! One block of LZ4, unpacked into a buffer of known length.

/// The least a repetition is long.
const MATCH_MIN: usize = 4;

/// `None` unless the block gives exactly as many bytes as there is room for.
pub fn unpack(mut block: &[u8], into: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        let token = take(&mut block, 1)?.first().copied()?;
        let literals = length(&mut block, token >> 4)?;
        let end = at + literals;
        into.get_mut(at..end)?.copy_from_slice(take(&mut block, literals)?);
        at = end;
        // The last sequence has no repetition.
        if block.is_empty() {
            return (at == into.len()).then_some(());
        }
        let distance = usize::from(u16::from_le_bytes(take(&mut block, 2)?.try_into().ok()?));
        let count = length(&mut block, token & 15)? + MATCH_MIN;
        let from = at.checked_sub(distance).filter(|_| distance > 0)?;
        if count > into.len() - at {
            return None;
        }
        // What is repeated may only just have been written.
        for step in 0..count {
            let byte = *into.get(from + step)?;
            *into.get_mut(at + step)? = byte;
        }
        at += count;
    }
}

fn take<'a>(block: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = block.split_at_checked(count)?;
    *block = rest;
    Some(taken)
}

/// A length of four bits goes on in bytes as long as they are full.
fn length(block: &mut &[u8], start: u8) -> Option<usize> {
    let mut length = usize::from(start);
    if start < 15 {
        return Some(length);
    }
    loop {
        let byte = take(block, 1)?.first().copied()?;
        length = length.checked_add(usize::from(byte))?;
        if byte < u8::MAX {
            return Some(length);
        }
    }
}
