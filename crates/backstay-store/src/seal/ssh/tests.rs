//! Against what `ssh-keygen` 9.2 and `age` 1.1.1 wrote, once, for a key that is nobody's.

use super::*;
use crate::seal::MasterIdentity;
use crate::seal::wrap::{self, Lock, Opening};
use proptest::prelude::*;
use std::io::Read;

const PRIVATE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACBaianVm+CjKOkbBq/QTAVfv612CvEUu2atSxP/iRb0RAAAAJDnpsKV56bC
lQAAAAtzc2gtZWQyNTUxOQAAACBaianVm+CjKOkbBq/QTAVfv612CvEUu2atSxP/iRb0RA
AAAEBbiZkZ/84kw4SPoLbNW1blsmGQgBhoc6j/5nuK4nPONVqJqdWb4KMo6RsGr9BMBV+/
rXYK8RS7Zq1LE/+JFvREAAAABmEgdGVzdAECAwQFBgc=
-----END OPENSSH PRIVATE KEY-----
";
const PUBLIC: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqJqdWb4KMo6RsGr9BMBV+/rXYK8RS7Zq1LE/+JFvRE a test";
const WITH_PASSPHRASE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABBmRsQBql
ZU1hF4gzXt4g+8AAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIG+EQdPmqDQPiVZ9
REWd5jetJ2+mgQ4+cJJ0W6yXtm1AAAAAkC33peVW4Dz+MLgZEK26pjpvwhXYkR+4DnjaxA
kWSvtmLsK2CFlM0fUdD4OMabWGl/Uh5eemUcxZcS02mFvS1AAd4nYxNEmG45Un/O88K4SY
ndQ51dAPV93LHyNueZOexWjL7fgrONluE+O/Xd9ztz3Sg0By0p+l6PiLgEy58zgsO3c2kQ
JGVHS66fXPW9UAMA==
-----END OPENSSH PRIVATE KEY-----
";
const BY_AGE: &str = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNzaC1lZDI1NTE5IFFML3ppZyBCL1RxMHlNN21Zam1NdEFTNHlUY0RDY0xmZlQzOEFR\
    ZGJQTGJNVzBJVXlFCmZncHFCR3E0ekdpeTB6ZWV4UGhnUklTNG9HcVpMNjZ1eFc3Rms2RkZaVEUKLS0tIDBTMjhjVTZTcEwrOVNF\
    dGtZQWhzRzZSZkliRTJaN3NobVViMStEOUVFU2sKod80NkMyLXirl3/0oiRU+4sTYpg+OoQdd+nvMUHKidk0pJUNZyPP/4u2Q4Lu\
    i1JN";

fn identity() -> SshIdentity {
    SshIdentity::parse(PRIVATE).expect("an identity")
}

#[test]
fn what_the_age_program_wrapped_is_opened() {
    let sealed = BASE64_STANDARD.decode(BY_AGE).expect("base64");
    let decryptor = age::Decryptor::new_buffered(sealed.as_slice()).expect("an age file");
    let identity = identity();
    let mut plain = String::new();
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).expect("opened");
    reader.read_to_string(&mut plain).expect("read");
    assert_eq!(plain, "what age wrapped");
}

#[test]
fn a_wrap_opens_for_its_key_alone() {
    let (master, identity) = (MasterIdentity::generate(), identity());
    let recipient = SshRecipient::parse(PUBLIC).expect("a recipient");
    assert_eq!(recipient.text(), identity.recipient().text());
    let wrapped = wrap::wrap(std::slice::from_ref(&master), Lock::Ssh(&recipient));
    let opened = wrap::open(&wrapped, Opening::Ssh(&identity)).expect("opened");
    assert_eq!(opened[0].secret_text(), master.secret_text());
    let stranger =
        SshRecipient::of(crate::signing::SigningKey::from_seed([7; 32]).public().as_bytes()).expect("a point");
    let for_stranger = wrap::wrap(std::slice::from_ref(&master), Lock::Ssh(&stranger));
    assert!(matches!(wrap::open(&for_stranger, Opening::Ssh(&identity)), Err(SealError::WrongKey)));
    assert!(matches!(wrap::open(&wrapped, Opening::Identity(&MasterIdentity::generate())), Err(SealError::WrongKey)));
    for at in 0..wrapped.len() {
        let mut damaged = wrapped.to_vec();
        damaged[at] ^= 1;
        assert!(wrap::open(&damaged, Opening::Ssh(&identity)).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_no_such_key_is_refused_with_a_word_of_its_own() {
    let recipient = |text: &str| SshRecipient::parse(text).err().expect("refused").to_string();
    assert!(
        recipient("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDgRBYbVyxe3NM1w8AdVAo7+feXiLaJ7pO79kI0XT1F")
            .contains("only ssh-ed25519")
    );
    assert!(recipient("ssh-ed25519 ???").contains("base64"));
    assert!(recipient("ssh-ed25519").contains("32 bytes"));
    let zero = BASE64_STANDARD.encode([field(KIND.as_bytes()), field(&[0; 32])].concat());
    assert!(recipient(&format!("ssh-ed25519 {zero}")).contains("curve"), "a point of small order is nobody's key");
    let longer = BASE64_STANDARD.encode([field(KIND.as_bytes()), field(&[9; 32]), vec![0]].concat());
    assert!(recipient(&format!("ssh-ed25519 {longer}")).contains("32 bytes"));
    let identity = |text: &str| SshIdentity::parse(text).err().expect("refused").to_string();
    assert!(identity(WITH_PASSPHRASE).contains("passphrase"));
    assert!(identity(BEGIN).contains("end"));
    let cut = PRIVATE.replace("rXYK8RS7Zq1LE", "");
    assert!(SshIdentity::parse(&cut).is_err());
}

proptest! {
    #[test]
    fn foreign_bytes_are_refused_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200) {
        let _ = SshRecipient::parse(&format!("ssh-ed25519 {}", BASE64_STANDARD.encode(&bytes)));
        let _ = SshIdentity::parse(&format!("{BEGIN}\n{}\n{END}", BASE64_STANDARD.encode([MAGIC, &bytes].concat())));
        let _ = SshIdentity::of_private(&bytes);
        let body: String = PRIVATE.lines().filter(|line| !line.starts_with('-')).collect();
        let mut known = BASE64_STANDARD.decode(body).expect("base64");
        let place = at % known.len();
        known.splice(place..place + 1, bytes.iter().take(3).copied());
        let _ = SshIdentity::parse(&format!("{BEGIN}\n{}\n{END}", BASE64_STANDARD.encode(&known)));
    }
}
