from pretokenizer.chat.roles import Role


def test_role_ids_are_those_on_disk() -> None:
    assert {role.name: int(role) for role in Role} == {
        "SYSTEM": 0,
        "USER": 1,
        "ASSISTANT": 2,
        "CONTEXT": 3,
        "ASSISTANT_NO_LOSS": 4,
        "TOOL": 5,
    }


def test_only_assistant_gets_loss() -> None:
    assert [role for role in Role if role.gets_loss] == [Role.ASSISTANT]


def test_template_names() -> None:
    assert [role.template_name for role in Role] == ["system", "user", "assistant", "context", "assistant", "tool"]
