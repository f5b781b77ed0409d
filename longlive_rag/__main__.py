"""`python -m longlive_rag` is `longlive-rag`."""

from longlive_rag.cli.main import main

if __name__ == "__main__":
    main()
