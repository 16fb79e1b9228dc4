"""What the tests share: loops under test, plain peers, small programs run as children."""
