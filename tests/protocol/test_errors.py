from shoal_protocol import errors

REMOTE = errors.RemoteProtocolError.__subclasses__()


def test_each_kind_of_remote_wrong_is_counted_under_a_name_of_its_own():
    reasons = [kind.reason for kind in REMOTE]
    assert len(REMOTE) == 7
    assert len({*reasons, errors.RemoteProtocolError.reason}) == len(reasons) + 1


def test_ours_and_theirs_are_never_confused():
    assert not issubclass(errors.LocalProtocolError, errors.RemoteProtocolError)
    assert not issubclass(errors.RemoteProtocolError, errors.LocalProtocolError)
    assert all(issubclass(kind, errors.ProtocolError) for kind in (errors.LocalProtocolError, *REMOTE))


def test_the_tree_in_the_docstring_is_the_tree():
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in (errors.LocalProtocolError, *REMOTE))
