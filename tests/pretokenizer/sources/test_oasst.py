"""The expected paths of a message tree become conversations."""

from typing import Any

from tests.pretokenizer.sources.conftest import Convert


def node(text: str, *replies: Any, **keys: Any) -> dict[str, Any]:
    """Return a message of a tree. A text in upper case is the assistant's."""
    role = "assistant" if text.isupper() else "prompter"
    return {"message_id": text, "text": text, "role": role, "lang": "en", "replies": list(replies), **keys}


def tree(prompt: Any, **keys: Any) -> dict[str, Any]:
    prompt = {"review_result": True, **prompt} if prompt else prompt
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": prompt, **keys}


def texts(found: Any) -> Any:
    return found if isinstance(found, str) else ["".join(text for _, text in conversation) for conversation in found]


def test_every_path_to_a_leaf(convert: Convert) -> None:
    trees = [tree(node("a", node("B", node("c", node("D"), node("E"))), node("F")))]
    assert texts(convert("oasst_export", trees)[0]) == ["aBcD", "aBcE", "aF"]
    assert convert("oasst_export", trees)[0][2] == [("user", "a"), ("assistant", "F")]


def test_a_question_without_reply_counts_only_as_the_first(convert: Convert) -> None:
    trees = [
        tree(node("a", node("B", node("c")))),
        tree(node("a", node("B", node("c", node("D")), node("e")))),
        tree(node("a", node("B", node("e"), node("c", node("D"))))),
        tree(node("a", node("B", node("e", deleted=True)))),
        tree(node("a")),
    ]
    assert [texts(found) for found in convert("oasst_export", trees)] == [["aB"], ["aBcD"], ["aB", "aBcD"], [], []]


def test_deleted_and_synthetic_paths_are_left_out(convert: Convert) -> None:
    trees = [tree(node("a", node("B", deleted=True), node("C", synthetic=True), node("D")))]
    assert texts(convert("oasst_export", trees)[0]) == ["aD"]


def test_ranks(convert: Convert) -> None:
    trees = [
        tree(node("a", node("B", rank=0), node("C", rank=1), node("D", rank=2))),
        tree(node("a", node("B"))),
        tree(node("a", node("B"), node("C", rank=0))),
        tree(node("a", node("B", node("c", node("D", rank=1), node("E", rank=0)), rank=0))),
    ]
    assert [texts(found) for found in convert("oasst_export", trees, top_k=1)] == [["aB"], ["aB"], ["aC"], ["aBcE"]]
    assert texts(convert("oasst_export", trees, top_k=2)[0]) == ["aB", "aC"]


def test_trees_that_do_not_count(convert: Convert) -> None:
    trees = [
        tree(node("a", node("B")), tree_state="growing"),
        tree({**node("a", node("B")), "review_result": False}),
        tree(node("a", node("B"), lang="de")),
        tree(None),
    ]
    expected = ["tree not ready for export", "prompt failed review", "other language", "no prompt"]
    assert convert("oasst_export", trees) == expected
    assert texts(convert("oasst_export", trees, lang="en, de")[2]) == ["aB"]


def test_roles_that_do_not_alternate_make_a_tree_bad(convert: Convert) -> None:
    found = convert("oasst_export", [tree(node("a", node("B", node("C")), node("D")))])
    assert found[0].startswith("bad: has an unexpected form (roles do not alternate); its keys: message_tree_id")


def test_flat_messages_of_the_hub(convert: Convert) -> None:
    def flat(text: str, parent: str | None, **keys: Any) -> dict[str, Any]:
        message = {k: v for k, v in node(text).items() if k != "replies"}
        return {**message, "parent_id": parent, "message_tree_id": "t", "tree_state": "ready_for_export", **keys}

    records = [
        flat("a", None, review_result=True),
        flat("B", "a"),
        flat("c", "B"),
        flat("D", "c"),
        flat("E", "a"),
        flat("f", None, review_result=True),
        flat("G", "f"),
    ]
    assert [texts(found) for found in convert("oasst_export", records)] == [["aBcD", "aE"], ["fG"]]
    orphan = "bad: its parent is not among the earlier messages; 'x'"
    found = convert("oasst_export", [*records[:2], flat("B", "x"), flat("H", "a"), flat("i", None, message_id=7)])
    assert [texts(f) for f in found] == [orphan, "bad: message_id or parent_id is not text", ["aB", "aH"]]


def test_other_kinds_of_lines_are_named(convert: Convert) -> None:
    found = convert("oasst_export", [{"thread_id": "x"}])
    assert found == ["bad: neither a message tree nor a message; a thread; export trees instead"]
