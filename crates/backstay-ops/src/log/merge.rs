//! What several log objects that follow one another say together, and whether a roll-up says just that.

use crate::OpsError;
use crate::catalog::Vault;
use backstay_format::facts::{After, RollUp, Span, SpanEnd};
use backstay_format::layout::FRAME_TARGET;
use backstay_format::log::Record;
use backstay_model::{Digest, Generation, SourceName};
use backstay_store::keys::LogName;
use backstay_store::repo::{LogDraft, LogFront, LogObject, LogSigning, Repository, name_of};
use backstay_store::seal::{Sealer, Unsealer};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Raw images, and bytes of records, in one roll-up: it is made before its time when there are so many.
pub const IMAGES_MAX: u64 = 8 << 20;
pub const RECORDS_MAX: u64 = 512 << 10;

/// The facts of the roll-up that several objects make.
pub struct Merged {
    pub facts: RollUp,
    /// The front digest that the first of them names.
    pub previous: Digest,
    /// Which of the spans each span of each part became.
    pub spans: Vec<Vec<u16>>,
}

/// What parts say together; `None` if they do not follow one another.
pub fn merged(parts: &[&LogFront], generation: Generation) -> Option<Merged> {
    let (first, last) = (parts.first()?, parts.last()?);
    let follow = |pair: &[&LogFront]| matches!(pair, [before, part] if follows(before, part));
    if !parts.windows(2).all(follow) || parts.iter().any(|part| part.facts.next.is_some()) {
        return None;
    }
    let mut merged: Vec<(Span, SpanEnd)> = Vec::new();
    let mut numbers = Vec::with_capacity(parts.len());
    for part in parts {
        let mut own = Vec::with_capacity(part.facts.spans.len());
        for (at, span) in part.facts.spans.iter().enumerate() {
            let of_source = merged.iter().rposition(|(known, _)| known.source == span.source);
            let known = of_source.filter(|known| merged.get(*known).is_some_and(|known| goes_on(first, known, span)));
            let known = known.unwrap_or_else(|| {
                merged.push((span.clone(), part.span_end(at)));
                merged.len() - 1
            });
            if let Some((known, end)) = merged.get_mut(known) {
                (known.last, known.to, known.unfinished) = (span.last, span.to, span.unfinished);
                *end = part.span_end(at);
            }
            own.push(u16::try_from(known).ok()?);
        }
        numbers.push(own);
    }
    let (spans, ends) = merged.into_iter().unzip();
    let LogName { stream, last: slot, .. } = last.name;
    let facts = RollUp { stream, first: first.name.first, last: slot, generation, digest: last.end, spans, ends };
    Some(Merged { facts, previous: first.chain.previous, spans: numbers })
}

fn follows(before: &LogFront, part: &LogFront) -> bool {
    let next = (before.name.stream, before.name.last.next());
    next == (part.name.stream, Some(part.name.first)) && before.end == part.chain.previous
}

/// Whether a span comes right after one that is known.
fn goes_on(first: &LogFront, (known, end): &(Span, SpanEnd), span: &Span) -> bool {
    let SpanEnd { sequence, digest } = *end;
    known.branch == span.branch && span.after == After::Log { stream: first.name.stream, sequence, digest }
}

/// What opens the parts of a roll-up.
#[derive(Clone, Copy)]
pub enum Opens<'a> {
    /// This run sealed them.
    Own(&'a Sealer),
    Any(&'a Unsealer),
}

/// What there is of one span: records, and their images one after another.
#[derive(Default)]
struct Line {
    records: Vec<Record>,
    images: Vec<u8>,
}

/// The same commits in one object: what the parts hold, in their order, span by span. A source has a span of its own, so
/// what is read of it lies together.
pub fn roll(
    repo: &Repository,
    (parts, generation): (&[&LogObject], Generation),
    opens: Opens<'_>,
    with: LogSigning<'_>,
) -> Result<(LogName, Bytes), OpsError> {
    let fronts: Vec<&LogFront> = parts.iter().map(|part| &part.front).collect();
    let Merged { facts, previous, spans } = merged(&fronts, generation).ok_or_else(unsound)?;
    let mut lines: Vec<Line> = facts.spans.iter().map(|_| Line::default()).collect();
    for (part, numbers) in parts.iter().zip(spans) {
        let number = |record: &Record| numbers.get(usize::from(record.span)).copied();
        let visit = |records: &[Record], at: usize, _, image: &[u8]| {
            let line = records.get(at).and_then(number).and_then(|number| lines.get_mut(usize::from(number)));
            line.ok_or_else(unsound)?.images.extend_from_slice(image);
            Ok(())
        };
        let own = match opens {
            Opens::Own(sealer) => part.open_own::<OpsError>(sealer, visit),
            Opens::Any(unsealer) => part.open::<OpsError>(unsealer, visit),
        };
        for mut record in own? {
            record.span = number(&record).ok_or_else(unsound)?;
            lines.get_mut(usize::from(record.span)).ok_or_else(unsound)?.records.push(record);
        }
    }
    let mut draft = LogDraft::roll_up(&facts, previous, repo.fresh_id(with.random), with);
    let (mut records, mut frame) = (Vec::new(), Vec::with_capacity(FRAME_TARGET));
    for line in lines {
        let mut rest = line.images.as_slice();
        let sizes = line.records.iter().flat_map(|record| record.pages.iter().map(|_| record.page_size.get() as usize));
        for size in sizes {
            let (image, behind) = rest.split_at_checked(size).ok_or_else(unsound)?;
            rest = behind;
            if frame.len() + image.len() > FRAME_TARGET {
                draft.images(&frame);
                frame.clear();
            }
            frame.extend_from_slice(image);
        }
        records.extend(line.records);
    }
    if !frame.is_empty() {
        draft.images(&frame);
    }
    Ok((name_of(&facts), draft.finish(&records).0))
}

fn unsound() -> OpsError {
    OpsError::Unsound { problem: "the parts of a roll-up do not follow one another".into() }
}

/// Over the images of each source, in their order.
type Sums = BTreeMap<SourceName, blake3::Hasher>;

/// Whether a roll-up has just the commits of its parts, which were put before it: every record and every image.
pub async fn is_of(vault: &Vault, name: &LogName, parts: &[LogName]) -> Result<bool, OpsError> {
    let Some(rolled) = vault.repo.log_object_of(name).await? else { return Ok(false) };
    let (mut images, mut records, mut fronts) = (Sums::new(), Vec::new(), Vec::new());
    for part in parts {
        vault.env.cancel.check()?;
        let Some(object) = vault.repo.log_object_of(part).await? else { return Ok(false) };
        records.push(contents(vault, &object, &mut images)?);
        fronts.push(object.front);
    }
    let fronts: Vec<&LogFront> = fronts.iter().collect();
    let Some(Merged { facts, previous, spans }) = merged(&fronts, name.generation) else { return Ok(false) };
    let mut all = Vec::new();
    for (records, numbers) in records.into_iter().zip(spans) {
        for record in records {
            let Some(span) = numbers.get(usize::from(record.span)) else { return Ok(false) };
            all.push(Record { span: *span, ..record });
        }
    }
    all.sort_by_key(|record| record.span);
    let mut own = Sums::new();
    // Of several sources one that was made earlier has them as they were committed.
    let mut said = contents(vault, &rolled, &mut own)?;
    said.sort_by_key(|record| record.span);
    let same_records = said == all;
    let front = &rolled.front;
    let ends: Vec<SpanEnd> = (0..front.facts.spans.len()).map(|span| front.span_end(span)).collect();
    let says = (front.name, front.chain.previous, front.end, &front.facts.spans, &ends);
    let same_facts = says == (name_of(&facts), previous, facts.digest, &facts.spans, &facts.ends);
    let sum = |(source, sum): (SourceName, blake3::Hasher)| (source, sum.finalize());
    Ok(same_records && same_facts && own.into_iter().map(sum).eq(images.into_iter().map(sum)))
}

/// The records of an object; its images go into the sums.
fn contents(vault: &Vault, object: &LogObject, sums: &mut Sums) -> Result<Vec<Record>, OpsError> {
    object.open::<OpsError>(vault.unsealer()?, |records, at, _, image| {
        let span = records.get(at).and_then(|record| object.front.facts.spans.get(usize::from(record.span)));
        // A record of no span is none of the records there should be.
        if let Some(span) = span {
            sums.entry(span.source.clone()).or_default().update(image);
        }
        Ok(())
    })
}
