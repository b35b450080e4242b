"""Problems as answers, and the budget of answers in memory."""
