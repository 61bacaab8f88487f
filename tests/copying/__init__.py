"""Moving sagas between stores."""
