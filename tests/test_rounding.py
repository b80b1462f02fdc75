from mammo_dp.rounding import rounded_up


def test_bounds_are_never_rounded_down():
    assert rounded_up(5.9912, digits=3) == "6"
    assert rounded_up(5.981, digits=3) == "5.99"
    assert rounded_up(6.0, digits=3) == "6"
    assert rounded_up(123.4, digits=2) == "130"
    assert rounded_up(0.01234, digits=2) == "0.013"
    assert rounded_up(24.9649, digits=4) == "24.97"
    assert rounded_up(float("inf")) == "inf"
