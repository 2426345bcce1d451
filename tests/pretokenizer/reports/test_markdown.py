from pretokenizer.reports.markdown import fence_of


def test_the_fence_is_longer_than_any_in_the_text() -> None:
    assert [fence_of(text) for text in ("a ~ b", "~~~~~\n~~", "~~~~")] == ["~~~~", "~~~~~~", "~~~~~"]
