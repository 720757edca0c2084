"""The seed paper's experiment, and what each way of encrypting X-rays leaks (`ppfl reproduce`)."""
