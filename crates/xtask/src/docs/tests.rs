use super::*;

#[test]
fn only_marked_blocks_are_run() {
    let page =
        "text\n```sh\nrm -rf x\n```\n```sh test\necho a\necho b\n```\n```text\nsh test\n```\n```sh test\nc\n```\n";
    let expected =
        [Block { line: 5, script: "echo a\necho b\n".to_owned() }, Block { line: 12, script: "c\n".to_owned() }];
    assert_eq!(blocks(page), expected);
}

#[test]
fn a_block_fails_on_its_first_failing_command_and_shows_what_it_printed() {
    let folder = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let block = Block { line: 1, script: script.to_owned() };
        run_block(Path::new("/"), folder.path(), &block).expect("bash and timeout are installed")
    };
    assert_eq!(run("echo made > file"), Ok(()));
    assert_eq!(run("test \"$(cat file)\" = made\n[ \"$HOME\" = \"$PWD\" ]"), Ok(()));
    let failed = run("echo said\nfalse | cat\necho never").expect_err("a pipe fails with its first command");
    assert!(failed.contains("\nsaid\n") && !failed.contains("\nnever\n"), "{failed}");
    assert!(run("echo \"$undefined\"").is_err());
}
